//! Cutting a collection into segments of about one blob.
//!
//! Where the cuts lie depends on the documents alone, so that a second backup of unchanged
//! documents makes the same segments and stores none of them twice, although the ranges that are
//! read side by side begin at sampled places. Three rules, decided by the hash that the content
//! digest needs anyway:
//!
//! - an *anchor* document (about one in 8 MiB) always begins a segment;
//! - a segment that would grow over its limit ends before the document that would do so;
//! - past half a MiB a segment ends after a document whose hash says so.
//!
//! Between anchors cuts depend on where the segment began; an anchor forgets that. So a reader that
//! begins anywhere skips documents until an anchor, and the reader of the range before goes on
//! past its own end until that same anchor ([`Share`]). That only meets where all of them see the
//! collection as it was at one time.

use bytes::Bytes;

use super::digest::{ContentDigest, document_hash};
use crate::repository::SEGMENT_TARGET;

/// Sizes that decide where cuts lie. They are part of the format in so far as a change of them
/// makes the next backup store everything anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutParameters {
    /// From this size on a segment may end after a document.
    pub soft_minimum: usize,
    /// How many bytes it then goes on for, on average.
    pub soft_mean: usize,
    /// No segment of several documents is larger.
    pub maximum: usize,
    /// Distance of anchors, on average.
    pub anchor_mean: usize,
    /// How far from its start a range looks for an anchor before it begins without one.
    pub anchor_search: usize,
}

impl Default for CutParameters {
    fn default() -> Self {
        Self {
            soft_minimum: 512 << 10,
            soft_mean: 256 << 10,
            maximum: SEGMENT_TARGET,
            anchor_mean: 8 << 20,
            anchor_search: 256 << 20,
        }
    }
}

impl CutParameters {
    fn is_anchor(&self, hash: u128, length: usize) -> bool {
        chosen((hash >> 96) as u32, length, self.anchor_mean)
    }

    fn ends_softly(&self, hash: u128, length: usize) -> bool {
        chosen(hash as u32, length, self.soft_mean)
    }
}

/// True with probability `length / mean`, decided by `bits`.
fn chosen(bits: u32, length: usize, mean: usize) -> bool {
    u128::from(bits) * (mean as u128) < (length as u128) << 32
}

/// Whole documents, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Their bytes.
    pub bytes: Bytes,
    /// How many.
    pub documents: u64,
}

/// Cuts documents, given in order, into segments.
#[derive(Debug)]
struct Cutter {
    parameters: CutParameters,
    buffer: Vec<u8>,
    documents: u64,
}

impl Cutter {
    fn push(&mut self, document: &[u8], hash: u128, out: &mut Vec<Segment>) {
        let anchored = self.parameters.is_anchor(hash, document.len());
        if anchored || self.buffer.len() + document.len() > self.parameters.maximum {
            self.flush(out);
        }
        if self.buffer.capacity() == 0 {
            // Most collections are small: only a segment that fills up gets the whole space.
            self.buffer.reserve(document.len().max(16 << 10));
        } else if self.buffer.len() + document.len() > self.buffer.capacity() {
            let wanted = self.parameters.maximum.max(document.len());
            self.buffer
                .reserve_exact(wanted - self.buffer.len().min(wanted));
        }
        self.buffer.extend_from_slice(document);
        self.documents += 1;
        let length = self.buffer.len();
        if length >= self.parameters.maximum
            || (length >= self.parameters.soft_minimum
                && self.parameters.ends_softly(hash, document.len()))
        {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<Segment>) {
        if self.documents > 0 {
            out.push(Segment {
                bytes: Bytes::from(std::mem::take(&mut self.buffer)),
                documents: std::mem::take(&mut self.documents),
            });
        }
    }
}

/// What became of a document that was offered to a [`Share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in a segment of this share.
    Taken,
    /// It belongs to the share before.
    Skipped,
    /// It belongs to the share after, and so do all that follow: this share is complete.
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Not looked for.
    Idle,
    /// So many bytes were passed without finding one.
    Looking(usize),
}

impl Search {
    /// Whether a share begins with this document; otherwise the search goes on.
    fn ends_at(&mut self, parameters: &CutParameters, hash: u128, length: usize) -> bool {
        let Self::Looking(passed) = self else {
            return false;
        };
        if parameters.is_anchor(hash, length) || *passed >= parameters.anchor_search {
            return true;
        }
        *passed += length;
        false
    }
}

/// What one range contributes to a collection: the documents from the first anchor at or after its
/// start up to the first anchor at or after its end.
#[derive(Debug)]
pub struct Share {
    cutter: Cutter,
    start: Search,
    end: Search,
    digest: ContentDigest,
    documents: u64,
    bytes: u64,
}

impl Share {
    /// A share that begins with the collection's first document, or (`at_start` false) somewhere.
    #[must_use]
    pub fn new(parameters: CutParameters, at_start: bool) -> Self {
        Self {
            cutter: Cutter {
                parameters,
                buffer: Vec::new(),
                documents: 0,
            },
            start: if at_start {
                Search::Idle
            } else {
                Search::Looking(0)
            },
            end: Search::Idle,
            digest: ContentDigest::new(),
            documents: 0,
            bytes: 0,
        }
    }

    /// Says that the range ends before the next document: the share ends at the next anchor.
    pub fn pass_end(&mut self) {
        self.end = Search::Looking(0);
    }

    /// Offers the next document in order; complete segments are appended to `out`.
    pub fn offer(&mut self, document: &[u8], out: &mut Vec<Segment>) -> Offered {
        let hash = document_hash(document);
        let parameters = self.cutter.parameters;
        // The end first: where both are found at one document, the share is empty.
        if self.end.ends_at(&parameters, hash, document.len()) {
            self.cutter.flush(out);
            return Offered::Complete;
        }
        if self.start != Search::Idle {
            if !self.start.ends_at(&parameters, hash, document.len()) {
                return Offered::Skipped;
            }
            self.start = Search::Idle;
        }
        self.digest.add_hash(hash);
        self.documents += 1;
        self.bytes += document.len() as u64;
        self.cutter.push(document, hash, out);
        Offered::Taken
    }

    /// Ends the share where the collection ends.
    pub fn finish(&mut self, out: &mut Vec<Segment>) {
        self.cutter.flush(out);
    }

    /// The digest of the documents taken.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// How many documents were taken.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of the documents taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: CutParameters = CutParameters {
        soft_minimum: 512,
        soft_mean: 256,
        maximum: 1024,
        anchor_mean: 8192,
        anchor_search: 1 << 20,
    };

    /// What the readers of the ranges that begin at `starts` make of a collection.
    fn read(
        parameters: CutParameters,
        documents: &[Vec<u8>],
        starts: &[usize],
    ) -> Vec<Vec<Segment>> {
        let mut shares = Vec::new();
        let mut bounds = vec![0];
        bounds.extend_from_slice(starts);
        for (position, &start) in bounds.iter().enumerate() {
            let end = bounds.get(position + 1).copied();
            let mut out = Vec::new();
            let mut share = Share::new(parameters, position == 0);
            let mut complete = false;
            for (at, document) in documents.iter().enumerate().skip(start) {
                if Some(at) == end {
                    share.pass_end();
                }
                if share.offer(document, &mut out) == Offered::Complete {
                    complete = true;
                    break;
                }
            }
            if !complete {
                share.finish(&mut out);
            }
            assert_eq!(
                share.bytes(),
                out.iter().map(|one| one.bytes.len() as u64).sum::<u64>()
            );
            assert_eq!(
                share.documents(),
                out.iter().map(|one| one.documents).sum::<u64>()
            );
            shares.push(out);
        }
        shares
    }

    fn documents(sizes: &[usize], seed: u64) -> Vec<Vec<u8>> {
        let mut state = seed | 1;
        sizes
            .iter()
            .map(|&size| {
                (0..size.max(1))
                    .map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        (state >> 56) as u8
                    })
                    .collect()
            })
            .collect()
    }

    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(
            prop_oneof![8 => 16usize..200, 1 => 200usize..1024, 1 => 1024usize..3000],
            0..600,
        )
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_the_ranges(
            sizes in sizes(),
            seed in any::<u64>(),
            starts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            search in prop_oneof![Just(1usize << 20), 0usize..4000],
        ) {
            let parameters = CutParameters { anchor_search: search, ..SMALL };
            let documents = documents(&sizes, seed);
            let mut starts: Vec<usize> =
                starts.iter().map(|at| at.index(documents.len() + 1)).filter(|&at| at > 0).collect();
            starts.sort_unstable();
            starts.dedup();
            let shares = read(parameters, &documents, &starts);
            let segments: Vec<Segment> = shares.concat();
            let joined: Vec<u8> = segments.iter().flat_map(|one| one.bytes.to_vec()).collect();
            prop_assert_eq!(&joined, &documents.concat());
            prop_assert_eq!(
                segments.iter().map(|one| one.documents).sum::<u64>(),
                documents.len() as u64
            );
            for segment in &segments {
                prop_assert!(segment.bytes.len() <= 1024 || segment.documents == 1);
                prop_assert!(segment.documents > 0);
            }
            // With an anchor within reach the sample leaves no trace.
            if search == 1 << 20 {
                prop_assert_eq!(segments, read(parameters, &documents, &[]).concat());
            }
        }

        #[test]
        fn segments_are_whole_documents(sizes in sizes(), seed in any::<u64>()) {
            let documents = documents(&sizes, seed);
            let mut rest = documents.iter();
            for segment in read(SMALL, &documents, &[]).concat() {
                let whole: Vec<u8> = rest
                    .by_ref()
                    .take(usize::try_from(segment.documents)?)
                    .flatten()
                    .copied()
                    .collect();
                prop_assert_eq!(whole, segment.bytes.to_vec());
            }
            prop_assert!(rest.next().is_none());
        }
    }

    #[test]
    fn one_document_more_changes_few_segments() {
        let sizes: Vec<usize> = (0..20_000).map(|at| 50 + at % 97).collect();
        let before = documents(&sizes, 7);
        let mut after = before.clone();
        after.insert(10_000, vec![1; 70]);
        let old = read(SMALL, &before, &[]).concat();
        let new = read(SMALL, &after, &[]).concat();
        let known: std::collections::HashSet<&Bytes> = old.iter().map(|one| &one.bytes).collect();
        let fresh = new.iter().filter(|one| !known.contains(&one.bytes)).count();
        assert!(old.len() > 1000, "{} segments", old.len());
        assert!(fresh <= 24, "{fresh} of {} segments are new", new.len());
    }

    #[test]
    fn the_default_makes_segments_of_about_a_blob() {
        let sizes = vec![700; 40_000];
        let segments = read(CutParameters::default(), &documents(&sizes, 3), &[]).concat();
        let mean = 700 * 40_000 / segments.len();
        assert!(
            (600 << 10..1 << 20).contains(&mean),
            "{mean} bytes on average"
        );
    }
}
