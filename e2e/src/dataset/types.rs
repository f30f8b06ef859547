//! Every BSON type with its edge cases, strange field names, `_id`s of every
//! type, and collections whose `_id`s are ordered by a collation.

use std::str::FromStr;

use anyhow::Result;
use mongodb::Database;
use mongodb::bson::{Decimal128, doc};

use super::{create, insert, insert_docs};
use crate::bson_bytes::{BsonBytes, string};
use crate::random::Random;

pub(super) async fn load(database: &Database, seed: u64) -> Result<()> {
    create(database, "types", doc! {}).await?;
    insert(database, "types", &types(seed)?).await?;
    create(database, "mixed_ids", doc! {}).await?;
    insert(database, "mixed_ids", &mixed_ids(seed)?).await?;
    create(database, "empty", doc! {}).await?;
    create(database, "one", doc! {}).await?;
    insert_docs(database, "one", vec![doc! { "_id": "only" }]).await?;
    empty_timestamps(database).await?;
    collated(database, seed).await
}

fn document(id: &str) -> BsonBytes {
    let mut document = BsonBytes::new();
    document.string("_id", id);
    document
}

fn types(seed: u64) -> Result<Vec<BsonBytes>> {
    let mut random = Random::new(seed);
    let mut all = vec![document("nothing else")];

    let mut numbers = document("numbers");
    numbers
        .int32("i32 min", i32::MIN)
        .int32("i32 max", i32::MAX)
        .int64("i64 min", i64::MIN)
        .int64("i64 max", i64::MAX)
        .int64("small i64", 1)
        .double("one", 1.0)
        .double("minus zero", -0.0)
        .double("infinity", f64::INFINITY)
        .double("minus infinity", f64::NEG_INFINITY)
        .double("nan", f64::NAN)
        .double("nan with a payload", f64::from_bits(0x7FF8_0000_DEAD_BEEF))
        .double("negative nan", f64::from_bits(0xFFF8_0000_0000_0001))
        .double("subnormal", f64::from_bits(1))
        .double("max", f64::MAX);
    all.push(numbers);

    let mut decimals = document("decimals");
    for text in [
        "0",
        "-0",
        "0.000",
        "1E+6144",
        "1E-6176",
        "9.999999999999999999999999999999999E+6144",
        "NaN",
        "Infinity",
        "-Infinity",
        "1.0",
        "1.00",
    ] {
        decimals.element(0x13, text, &Decimal128::from_str(text)?.bytes());
    }
    all.push(decimals);

    let mut dates = document("dates");
    for value in [
        0,
        -1,
        i64::MIN,
        i64::MAX,
        253_402_300_799_999,
        1_772_000_000_123,
    ] {
        dates.date(&value.to_string(), value);
    }
    all.push(dates);

    let mut timestamps = document("timestamps");
    timestamps.element(0x11, "one", &timestamp(1, 1)).element(
        0x11,
        "max",
        &timestamp(u32::MAX, u32::MAX),
    );
    let mut inside = BsonBytes::new();
    inside.element(0x11, "zero inside is kept", &timestamp(0, 0));
    timestamps.document("inside", &inside);
    all.push(timestamps);

    let mut strings = document("strings");
    strings
        .string("empty", "")
        .string("nul inside", "a\0b")
        .string("emoji", "🦑 🏴‍☠️ 👩‍👩‍👧‍👦")
        .string("combining", "e\u{301} vs é")
        .string("right to left", "\u{202E}שלום مرحبا")
        .string("last code point", "\u{10FFFF}")
        .string("newlines", "a\r\nb\tc")
        .string("long", &"0123456789abcdef".repeat(1 << 16));
    all.push(strings);

    let mut binary = document("binary");
    for subtype in [0, 1, 3, 4, 5, 8, 0x80, 0xFF] {
        let mut bytes = Vec::new();
        random.fill(&mut bytes, 16);
        binary.binary(&format!("subtype {subtype}"), subtype, &bytes);
    }
    // The old generic subtype holds its length once more.
    binary
        .binary("subtype 2", 2, &[3, 0, 0, 0, 1, 2, 3])
        .binary("empty", 0, &[]);
    all.push(binary);

    let mut regexes = document("regexes");
    for (name, pattern, flags) in [
        ("plain", "^a.*z$", ""),
        ("flags", "a|b", "imsx"),
        ("slash", "a/b\\/c", "i"),
        ("empty", "", ""),
    ] {
        regexes.element(0x0B, name, format!("{pattern}\0{flags}\0").as_bytes());
    }
    all.push(regexes);

    let mut others = document("others");
    others
        .boolean("true", true)
        .boolean("false", false)
        .element(0x0A, "null", &[])
        .element(0xFF, "min key", &[])
        .element(0x7F, "max key", &[])
        .object_id("object id", random.object_id())
        .object_id("object id of zeros", [0; 12]);
    all.push(others);

    let mut deprecated = document("deprecated");
    let mut pointer = Vec::new();
    string(&mut pointer, "shop.orders");
    pointer.extend_from_slice(&random.object_id());
    let mut symbol = Vec::new();
    string(&mut symbol, "a symbol");
    let mut code = Vec::new();
    string(&mut code, "function () { return \"ü\"; }");
    let mut scope = BsonBytes::new();
    scope.int32("x", 1).string("y", "two");
    let mut scoped = vec![0; 4];
    string(&mut scoped, "return x;");
    scope.write_to(&mut scoped);
    let length = i32::try_from(scoped.len())?.to_le_bytes();
    scoped[..4].copy_from_slice(&length);
    deprecated
        .element(0x06, "undefined", &[])
        .element(0x0C, "db pointer", &pointer)
        .element(0x0D, "javascript", &code)
        .element(0x0E, "symbol", &symbol)
        .element(0x0F, "javascript with scope", &scoped);
    all.push(deprecated);

    let mut arrays = document("arrays");
    let (empty, mut mixed, mut many) = (BsonBytes::new(), BsonBytes::new(), BsonBytes::new());
    mixed
        .int32("0", 1)
        .string("1", "two")
        .element(0x0A, "2", &[])
        .array("3", &empty)
        .document("4", &empty);
    for number in 0..10_000 {
        many.int32(&number.to_string(), number);
    }
    arrays
        .array("empty", &empty)
        .array("mixed", &mixed)
        .array("many", &many)
        .document("empty document", &empty);
    all.push(arrays);

    // The server allows 180 levels and more; drivers that recurse feel it.
    let mut deep = BsonBytes::new();
    deep.string("bottom", "here");
    for level in 0..150 {
        let mut outer = BsonBytes::new();
        if level % 2 == 0 {
            outer.document("d", &deep)
        } else {
            outer.array("0", &deep)
        };
        deep = outer;
    }
    all.push({
        let mut document = document("deep");
        document.document("d", &deep);
        document
    });

    let mut fields = document("field names");
    let mut inside = BsonBytes::new();
    inside
        .string("", "empty")
        .string("dotted.name", "inside")
        .string("$dollar", "inside")
        .int32("_id", 7);
    fields
        .string("", "the empty name")
        .string("dotted.name", "a dot")
        .string("$dollar", "a dollar")
        .string("twice", "first")
        .string("twice", "second")
        .string("Twice", "another case")
        .string("0", "a number")
        .string("__proto__", "javascript")
        .string("ünï cødé 🦑", "unicode")
        .string(&"long".repeat(2_500), "ten thousand bytes")
        .document("inside", &inside);
    all.push(fields);

    // A reference as drivers write it, and the order of fields.
    let mut reference = document("references");
    let mut dbref = BsonBytes::new();
    dbref
        .string("$ref", "other")
        .object_id("$id", random.object_id())
        .string("$db", "else");
    let (mut ab, mut ba) = (BsonBytes::new(), BsonBytes::new());
    ab.int32("a", 1).int32("b", 2);
    ba.int32("b", 2).int32("a", 1);
    reference
        .document("dbref", &dbref)
        .document("ab", &ab)
        .document("ba", &ba);
    all.push(reference);
    Ok(all)
}

/// One document for each kind of `_id` that a collection may hold, and enough
/// of some that ranges matter.
fn mixed_ids(seed: u64) -> Result<Vec<BsonBytes>> {
    let mut random = Random::new(seed ^ 1);
    let mut all = Vec::new();
    let mut add = |kind: u8, payload: &[u8]| {
        let mut document = BsonBytes::new();
        document
            .element(kind, "_id", payload)
            .int32("type", i32::from(kind));
        all.push(document);
    };
    for number in -50..50_i32 {
        add(0x10, &number.to_le_bytes());
    }
    for number in 0..50_i64 {
        add(0x12, &(i64::from(u32::MAX) + number * 7).to_le_bytes());
        add(0x01, &(number as f64 + 0.5).to_bits().to_le_bytes());
    }
    add(0x01, &f64::NAN.to_bits().to_le_bytes());
    add(0x01, &f64::INFINITY.to_bits().to_le_bytes());
    for text in ["0.1", "1E+6000", "-7.5E-10"] {
        add(0x13, &Decimal128::from_str(text)?.bytes());
    }
    let long = "x".repeat(1_000);
    let mut words: Vec<String> = (0..100)
        .map(|number| format!("string {:03}", (number * 37) % 100))
        .collect();
    words.extend(
        [
            "",
            "a",
            "A",
            "ä",
            "🦑",
            "a\0b",
            "$dollar",
            "dotted.name",
            long.as_str(),
        ]
        .map(str::to_owned),
    );
    for word in &words {
        let mut payload = Vec::new();
        string(&mut payload, word);
        add(0x02, &payload);
    }
    for _ in 0..100 {
        add(0x07, &random.object_id());
        let mut payload = vec![16, 0, 0, 0, 4];
        payload.extend_from_slice(&random.uuid());
        add(0x05, &payload);
    }
    add(0x05, &[0, 0, 0, 0, 0]);
    add(0x05, &[2, 0, 0, 0, 0x80, 1, 2]);
    for time in [0, -1, 1_772_000_000_000_i64] {
        add(0x09, &time.to_le_bytes());
    }
    let mut nested = BsonBytes::new();
    let mut inner = BsonBytes::new();
    inner.int32("b", 1);
    nested
        .int32("a", 1)
        .document("c", &inner)
        .string("", "an empty name");
    let mut swapped = BsonBytes::new();
    swapped.document("c", &inner).int32("a", 1);
    for document in [&nested, &swapped, &BsonBytes::new()] {
        let mut payload = Vec::new();
        document.write_to(&mut payload);
        add(0x03, &payload);
    }
    add(0x0A, &[]);
    add(0x08, &[0]);
    add(0x08, &[1]);
    add(0xFF, &[]);
    add(0x7F, &[]);
    add(0x11, &timestamp(0, 0));
    add(0x11, &timestamp(1_772_000_000, 3));
    // Not in the order of their values.
    for index in (1..all.len()).rev() {
        all.swap(index, usize::try_from(random.below(index as u64 + 1))?);
    }
    Ok(all)
}

fn timestamp(time: u32, increment: u32) -> [u8; 8] {
    ((u64::from(time) << 32) | u64::from(increment)).to_le_bytes()
}

/// A top-level `Timestamp(0, 0)`: an insert would replace it with the time of
/// day, an update keeps it.
async fn empty_timestamps(database: &Database) -> Result<()> {
    create(database, "empty_timestamps", doc! {}).await?;
    let documents = (0..10)
        .map(|id| doc! { "_id": id, "before": id, "t": null, "after": "x" })
        .collect();
    insert_docs(database, "empty_timestamps", documents).await?;
    let zero = mongodb::bson::Timestamp {
        time: 0,
        increment: 0,
    };
    database
        .collection::<mongodb::bson::Document>("empty_timestamps")
        .update_many(doc! {}, doc! { "$set": { "t": zero } })
        .await?;
    let kept = database
        .collection::<mongodb::bson::Document>("empty_timestamps")
        .count_documents(doc! { "t": zero })
        .await?;
    anyhow::ensure!(kept == 10, "the server replaced an updated Timestamp(0, 0)");
    Ok(())
}

/// `_id`s whose order, and whose equality, is a collation's.
async fn collated(database: &Database, seed: u64) -> Result<()> {
    let words = [
        "côte",
        "Österreich",
        "zebra",
        "Ångström",
        "naïve",
        "ßharp",
        "été",
        "Ēe",
        "i",
        "ı",
        "œuvre",
        "Ñandú",
    ];
    for (name, locale, strength) in [
        ("collated_1", "fr", 1),
        ("collated_2", "en", 2),
        ("collated_sv", "sv", 3),
    ] {
        create(
            database,
            name,
            doc! { "collation": { "locale": locale, "strength": strength } },
        )
        .await?;
        let mut random = Random::new(seed ^ 2);
        let mut documents: Vec<_> = words.iter().map(|word| doc! { "_id": *word }).collect();
        for number in 0..500_u32 {
            let word = words[usize::try_from(random.below(words.len() as u64))?];
            let word = if random.below(2) == 0 {
                word.to_uppercase()
            } else {
                word.to_lowercase()
            };
            documents.push(doc! { "_id": format!("{word} {number}"), "n": number });
        }
        documents.push(doc! { "_id": 5, "note": "not a string" });
        documents.push(doc! { "_id": { "in": "Document" } });
        insert_docs(database, name, documents).await?;
    }
    let numeric = doc! { "collation": { "locale": "de", "numericOrdering": true, "caseFirst": "upper", "alternate": "shifted" } };
    create(database, "collated_numeric", numeric).await?;
    let documents = (0..50)
        .map(|number| doc! { "_id": format!("item {}", number * 7 % 50) })
        .collect();
    insert_docs(database, "collated_numeric", documents).await
}
