//! Names that need escaping, or that look like something they are not.

use anyhow::Result;
use mongodb::Client;
use mongodb::bson::doc;

use super::{Dataset, create, insert_docs};

/// Collection names the server allows and a careless program does not survive.
pub fn awkward() -> Vec<String> {
    let mut names: Vec<String> = [
        "with space",
        " leading space",
        "trailing space ",
        "percent 100%",
        "%2Fescaped already",
        "slash/inside",
        "up/../up",
        "/absolute",
        "back\\slash",
        "dots.in.the.name",
        "trailing.dot.",
        "quote\"and'apostrophe",
        "tab\tinside",
        "new\nline",
        "question?mark*and[brackets]{braces}",
        "-dash",
        "--option",
        "#hash",
        "semi;colon&ampersand|pipe`backtick",
        "ünïcödé",
        "e\u{301} combining",
        "é precomposed",
        "é combining",
        "日本語",
        "emoji 🦑",
        "UPPER",
        "upper",
        "Upper",
        "looks.like.bson",
        "ends.bson",
        "ends.metadata.json",
        "ends.bson.gz",
        "oplog",
        "toc",
        "prelude",
        "NUL",
        "con",
        "0",
        "null",
        "true",
        "systemic.but.not.system",
        "tmp_looks.temporary",
    ]
    .map(str::to_owned)
    .to_vec();
    // Longer than a file name once escaped: mongodump shortens it with a hash.
    names.push("é".repeat(90));
    names.push(format!("{}a", "x/".repeat(80)));
    names.push(format!("{}b", "x/".repeat(80)));
    // Just below, at and above where the shortening begins.
    names.extend([237, 238, 239].map(|length| "n".repeat(length)));
    names
}

pub(super) async fn load(dataset: &Dataset, client: &Client) -> Result<()> {
    let database = client.database(&dataset.names());
    for (name, number) in awkward().into_iter().zip(0_i32..) {
        create(&database, &name, doc! {}).await?;
        insert_docs(
            &database,
            &name,
            vec![doc! { "_id": number, "name": &name }],
        )
        .await?;
        if number % 5 == 0 {
            let index = doc! { "key": { "name": 1 }, "name": format!("index of {number}") };
            database
                .run_command(doc! { "createIndexes": &name, "indexes": [index] })
                .await?;
        }
    }
    let database = client.database(&dataset.awkward());
    create(&database, "plain", doc! {}).await?;
    insert_docs(&database, "plain", vec![doc! { "_id": 1 }]).await?;
    insert_docs(&database, "größe 50%", vec![doc! { "_id": 2 }]).await?;
    create(
        &database,
        "a view",
        doc! { "viewOn": "größe 50%", "pipeline": [] },
    )
    .await?;
    let admin = client.database("admin");
    insert_docs(
        &admin,
        &dataset.admin_collection(),
        vec![doc! { "_id": 1, "note": "people do this" }],
    )
    .await
}
