//! BSON written byte by byte: for documents that the driver's own types
//! cannot hold (a field name twice, a DBPointer, a NaN with a payload) and for
//! generating a gigabyte of them quickly.

use anyhow::{Context, Result};
use mongodb::bson::RawDocumentBuf;

/// A document, or an array, being written.
#[derive(Clone, Debug)]
pub struct BsonBytes(Vec<u8>);

impl Default for BsonBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl BsonBytes {
    /// An empty document.
    pub fn new() -> Self {
        Self(vec![0; 4])
    }

    /// How long it would be if it ended here.
    pub fn length(&self) -> usize {
        self.0.len() + 1
    }

    /// Any element: its type's number, its name and its bytes.
    pub fn element(&mut self, kind: u8, name: &str, payload: &[u8]) -> &mut Self {
        self.head(kind, name);
        self.0.extend_from_slice(payload);
        self
    }

    fn head(&mut self, kind: u8, name: &str) {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
    }

    /// A string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.head(0x02, name);
        string(&mut self.0, value);
        self
    }

    /// A document.
    pub fn document(&mut self, name: &str, value: &BsonBytes) -> &mut Self {
        self.head(0x03, name);
        value.write_to(&mut self.0);
        self
    }

    /// An array, written as a document with the names "0", "1" and so on.
    pub fn array(&mut self, name: &str, value: &BsonBytes) -> &mut Self {
        self.head(0x04, name);
        value.write_to(&mut self.0);
        self
    }

    /// A finished document under a name.
    pub fn raw(&mut self, name: &str, value: &RawDocumentBuf) -> &mut Self {
        self.element(0x03, name, value.as_bytes())
    }

    /// Binary data.
    pub fn binary(&mut self, name: &str, subtype: u8, value: &[u8]) -> &mut Self {
        self.head(0x05, name);
        self.0.extend_from_slice(&length_of(value.len()));
        self.0.push(subtype);
        self.0.extend_from_slice(value);
        self
    }

    /// An ObjectId.
    pub fn object_id(&mut self, name: &str, value: [u8; 12]) -> &mut Self {
        self.element(0x07, name, &value)
    }

    /// A boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.element(0x08, name, &[u8::from(value)])
    }

    /// A date, in milliseconds since 1970.
    pub fn date(&mut self, name: &str, value: i64) -> &mut Self {
        self.element(0x09, name, &value.to_le_bytes())
    }

    /// A 32-bit integer.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.element(0x10, name, &value.to_le_bytes())
    }

    /// A 64-bit integer.
    pub fn int64(&mut self, name: &str, value: i64) -> &mut Self {
        self.element(0x12, name, &value.to_le_bytes())
    }

    /// A double; its bits are kept as they are.
    pub fn double(&mut self, name: &str, value: f64) -> &mut Self {
        self.element(0x01, name, &value.to_bits().to_le_bytes())
    }

    /// Appends the finished bytes.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.0);
        out.push(0);
        let length = length_of(self.length());
        out[start..start + 4].copy_from_slice(&length);
    }

    /// The finished document.
    pub fn finish(&self) -> Result<RawDocumentBuf> {
        let mut bytes = Vec::with_capacity(self.length());
        self.write_to(&mut bytes);
        RawDocumentBuf::from_bytes(bytes).context("the bytes are not a BSON document")
    }
}

/// Appends a string as BSON has it: length, bytes, NUL.
pub fn string(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&length_of(value.len() + 1));
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// Lengths in BSON are 32 bits; nothing here comes near to that.
fn length_of(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes()
}
