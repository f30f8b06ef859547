//! The resource types of Holdfast and the rules they obey.
