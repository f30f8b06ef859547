//! Users and roles, in `admin` and in another database.

use anyhow::{Context, Result};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

/// The password of every user of the dataset.
pub const PASSWORD: &str = "the-dataset-s-password";

/// The users' names: `admin`'s first.
fn names(main: &Database) -> [String; 3] {
    let prefix = main.name();
    [
        format!("{prefix}_operator"),
        format!("{prefix}_app"),
        format!("{prefix} ünïcödé@:/%"),
    ]
}

pub(super) async fn load(main: &Database, client: &Client) -> Result<()> {
    let admin = client.database("admin");
    let [operator, app, awkward] = names(main);
    let here = main.name();
    let role = doc! {
        "createRole": "reader of one",
        "privileges": [
            { "resource": { "db": here, "collection": "one" }, "actions": ["find", "listIndexes"] },
            { "resource": { "db": here, "collection": "" }, "actions": ["listCollections"] },
        ],
        "roles": [],
    };
    run(main, role).await?;
    let role = doc! {
        "createRole": format!("{here}_everything"),
        "privileges": [{ "resource": { "anyResource": true }, "actions": ["anyAction"] }],
        "roles": [{ "role": "reader of one", "db": here }, { "role": "readAnyDatabase", "db": "admin" }],
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.0/8"] }],
    };
    run(&admin, role).await?;
    let user = doc! {
        "createUser": operator,
        "pwd": PASSWORD,
        "roles": [format!("{here}_everything"), { "role": "backup", "db": "admin" }],
        "customData": { "team": "ops", "since": 2026 },
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"], "serverAddress": ["127.0.0.1"] }],
    };
    run(&admin, user).await?;
    let user = doc! { "createUser": app, "pwd": PASSWORD, "roles": ["readWrite", "reader of one"], "mechanisms": ["SCRAM-SHA-256"] };
    run(main, user).await?;
    run(
        main,
        doc! { "createUser": awkward, "pwd": PASSWORD, "roles": [] },
    )
    .await
}

pub(super) async fn drop(main: &Database, client: &Client) -> Result<()> {
    let admin = client.database("admin");
    let [operator, app, awkward] = names(main);
    // What is not there needs no dropping.
    for (database, command) in [
        (&admin, doc! { "dropUser": operator }),
        (main, doc! { "dropUser": app }),
        (main, doc! { "dropUser": awkward }),
        (
            &admin,
            doc! { "dropRole": format!("{}_everything", main.name()) },
        ),
        (main, doc! { "dropRole": "reader of one" }),
    ] {
        let _ = database.run_command(command).await;
    }
    Ok(())
}

async fn run(database: &Database, command: Document) -> Result<()> {
    let shown = command
        .iter()
        .next()
        .map(|(name, value)| format!("{name} {value}"))
        .unwrap_or_default();
    database
        .run_command(command)
        .await
        .with_context(|| format!("{} in {}", shown, database.name()))?;
    Ok(())
}
