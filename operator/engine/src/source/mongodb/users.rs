//! Users and roles: three collections of `admin`, backed up as they are.
//!
//! They are those of the whole server, whatever `include` says: a user of one database may hold
//! roles on others, and stock mongorestore wants all three files together (without
//! `system.version` a dump counts as one of an ancient server and is refused).

use super::namespace::Namespace;

/// Whether the collection holds users, roles, or the version of their schema.
#[must_use]
pub fn is_users_or_roles(namespace: &Namespace) -> bool {
    is_users(namespace)
        || is_roles(namespace)
        || (namespace.db == "admin" && namespace.collection == "system.version")
}

/// Whether the collection holds users.
#[must_use]
pub fn is_users(namespace: &Namespace) -> bool {
    namespace.db == "admin" && namespace.collection == "system.users"
}

/// Whether the collection holds roles.
#[must_use]
pub fn is_roles(namespace: &Namespace) -> bool {
    namespace.db == "admin" && namespace.collection == "system.roles"
}
