//! YAML (and so JSON) into nodes that know their line and column.
//!
//! Written over the events of the parser that serde-saphyr itself stands on:
//! serde throws away where a value stood, and an error without a place is of
//! little use in a file of two hundred lines.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::{
    node::{Content, Entry, Mark, Node},
    scalar::plain,
};

/// What is wrong with the YAML itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) mark: Mark,
    pub(crate) message: String,
    /// Whether the document is lost.
    pub(crate) fatal: bool,
}

/// A document that could be read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// Whether it has a fault, so that it must not be used.
    pub(crate) faulty: bool,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) documents: Vec<Document>,
    pub(crate) faults: Vec<Fault>,
}

/// How many nodes one file may have once its aliases are written out. A
/// hundred times what a large repository of policies has, and little memory.
const MAX_NODES: usize = 200_000;

/// Reads a file of any number of documents. After a fault, reading goes on
/// with the next document, so that the faults of all of them are told at once.
pub(crate) fn read(text: &str) -> Read {
    let mut reader = Reader::default();
    let mut rest = text;
    let mut lines_before = 0;
    while let Err(begun) = reader.stream(rest, lines_before) {
        // Never the same document again, wherever its fault lies.
        let Some((offset, lines)) = next_document(rest, begun.max(1)) else {
            break;
        };
        lines_before += lines;
        rest = rest.get(offset..).unwrap_or_default();
    }
    reader.read
}

/// The byte offset and the number of lines before the first `---` after a line.
fn next_document(text: &str, after_line: usize) -> Option<(usize, usize)> {
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && index + 1 > after_line {
            return Some((offset, index));
        }
        offset += line.len();
    }
    None
}

/// A collection whose end has not come yet.
struct Open {
    anchor: usize,
    mark: Mark,
    state: State,
}

enum State {
    List(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        seen: HashMap<String, Mark>,
        merges: Vec<Node>,
        key: Option<Key>,
    },
}

/// A key that waits for its value.
struct Key {
    name: String,
    mark: Mark,
    /// `<<`: what is named by the value is taken over.
    merge: bool,
    /// A key that cannot be; its value is read over.
    dropped: bool,
}

#[derive(Default)]
struct Reader {
    read: Read,
    nodes: usize,
}

impl Reader {
    /// Reads until the end, or fails with the line on which the document
    /// began that has the fault.
    fn stream(&mut self, text: &str, lines_before: usize) -> Result<(), usize> {
        let options =
            granit_parser::options! { emit_comments: false, emit_unresolved_aliases: true };
        let mut anchors: HashMap<usize, Node> = HashMap::new();
        let mut stack: Vec<Open> = Vec::new();
        let mut root: Option<Node> = None;
        let mut begun = 0;
        let mut faults_before = self.read.faults.len();
        let at = |span: &Span| Mark {
            line: span.start.line() + lines_before,
            column: span.start.col() + 1,
        };
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match event {
                Ok(pair) => pair,
                Err(error) => {
                    self.read.faults.push(syntax_fault(&error, lines_before));
                    return Err(begun);
                }
            };
            let mark = at(&span);
            let finished = match event {
                Event::DocumentStart(..) => {
                    begun = span.start.line();
                    anchors.clear();
                    faults_before = self.read.faults.len();
                    None
                }
                Event::DocumentEnd => {
                    let faults = self.read.faults.get(faults_before..).unwrap_or_default();
                    let faulty = !faults.is_empty();
                    let lost = faults.iter().any(|fault| fault.fatal);
                    let root = root.take().filter(|_| !lost);
                    self.read
                        .documents
                        .extend(root.map(|root| Document { root, faulty }));
                    None
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let value = self.scalar(&text, style, tag.as_deref(), mark);
                    Some((
                        anchor,
                        Node {
                            mark,
                            content: Content::Scalar(value),
                        },
                    ))
                }
                Event::SequenceStart(_, anchor, _) => {
                    stack.push(Open {
                        anchor,
                        mark,
                        state: State::List(Vec::new()),
                    });
                    None
                }
                Event::MappingStart(_, anchor, _) => {
                    stack.push(Open {
                        anchor,
                        mark,
                        state: State::Mapping {
                            entries: Vec::new(),
                            seen: HashMap::new(),
                            merges: Vec::new(),
                            key: None,
                        },
                    });
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    stack.pop().map(|open| (open.anchor, self.close(open)))
                }
                Event::Alias(id) => Some((0, self.alias(anchors.get(&id), mark))),
                Event::UnresolvedAlias(name) => {
                    self.fatal(mark, format!("`*{name}` refers to nothing: there is no `&{name}` before it in this document"));
                    Some((
                        0,
                        Node {
                            mark,
                            content: Content::Scalar(Value::Null),
                        },
                    ))
                }
                _ => None,
            };
            if let Some((anchor, node)) = finished {
                self.nodes += 1;
                if self.nodes > MAX_NODES {
                    self.fatal(mark, format!("this file has more than {MAX_NODES} values once its aliases are written out: split it"));
                    return Err(usize::MAX);
                }
                if anchor > 0 {
                    anchors.insert(anchor, node.clone());
                }
                match stack.last_mut() {
                    Some(open) => self.place(open, node),
                    None => root = Some(node),
                }
            }
        }
        Ok(())
    }

    /// A fault that leaves the rest of the document readable.
    fn fault(&mut self, mark: Mark, message: impl Into<String>) {
        self.read.faults.push(Fault {
            mark,
            message: message.into(),
            fatal: false,
        });
    }

    /// A fault after which a value is missing, so that nothing more can be said.
    fn fatal(&mut self, mark: Mark, message: impl Into<String>) {
        self.read.faults.push(Fault {
            mark,
            message: message.into(),
            fatal: true,
        });
    }

    /// Puts a node where it belongs: into a list, or as a key or a value.
    fn place(&mut self, open: &mut Open, node: Node) {
        let State::Mapping {
            entries,
            seen,
            merges,
            key,
        } = &mut open.state
        else {
            if let State::List(items) = &mut open.state {
                items.push(node);
            }
            return;
        };
        let Some(waiting) = key.take() else {
            *key = Some(self.key(&node, seen));
            return;
        };
        match waiting {
            Key { dropped: true, .. } => {}
            Key { merge: true, .. } => merges.push(node),
            Key { name, mark, .. } => entries.push(Entry {
                key: name,
                key_mark: mark,
                value: node,
            }),
        }
    }

    fn key(&mut self, node: &Node, seen: &mut HashMap<String, Mark>) -> Key {
        let mark = node.mark;
        let name = match &node.content {
            Content::Scalar(Value::String(text)) => Some(text.clone()),
            Content::Scalar(Value::Null) => None,
            Content::Scalar(other) => Some(other.to_string()),
            Content::List(_) | Content::Mapping(_) => None,
        };
        let Some(name) = name else {
            self.fault(mark, "a key must be a word: write `name: value`");
            return Key {
                name: String::new(),
                mark,
                merge: false,
                dropped: true,
            };
        };
        let merge = name == "<<";
        let mut dropped = false;
        if !merge {
            if let Some(first) = seen.get(&name) {
                let line = first.line;
                self.fault(
                    mark,
                    format!(
                        "the key `{name}` is written twice, first on line {line}: keep one of them"
                    ),
                );
                dropped = true;
            } else {
                seen.insert(name.clone(), mark);
            }
        }
        Key {
            name,
            mark,
            merge,
            dropped,
        }
    }

    fn close(&mut self, open: Open) -> Node {
        let content = match open.state {
            State::List(items) => Content::List(items),
            State::Mapping {
                mut entries,
                merges,
                ..
            } => {
                let mut known: HashSet<String> =
                    entries.iter().map(|entry| entry.key.clone()).collect();
                for merge in merges {
                    self.merge(merge, &mut entries, &mut known);
                }
                Content::Mapping(entries)
            }
        };
        Node {
            mark: open.mark,
            content,
        }
    }

    /// `<<: *base`: the keys of `base` that are not written here.
    fn merge(&mut self, from: Node, entries: &mut Vec<Entry>, known: &mut HashSet<String>) {
        match from.content {
            Content::Mapping(base) => {
                for entry in base {
                    if known.insert(entry.key.clone()) {
                        entries.push(entry);
                    }
                }
            }
            Content::List(items) => {
                for item in items {
                    self.merge(item, entries, known);
                }
            }
            Content::Scalar(_) => {
                self.fatal(from.mark, "`<<` takes over a mapping: write `<<: *name`, with `&name` before a mapping above");
            }
        }
    }

    fn alias(&mut self, target: Option<&Node>, mark: Mark) -> Node {
        let Some(target) = target else {
            self.fatal(
                mark,
                "this alias lies within what it refers to: write the value out",
            );
            return Node {
                mark,
                content: Content::Scalar(Value::Null),
            };
        };
        self.nodes += target.count();
        if self.nodes > MAX_NODES {
            return Node {
                mark,
                content: Content::Scalar(Value::Null),
            };
        }
        target.clone()
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Value {
        match tag.map(|tag| (tag.core_suffix(), tag)) {
            None if style == ScalarStyle::Plain => plain(text),
            None | Some((Some("str"), _)) => Value::String(text.to_owned()),
            Some((Some("null" | "bool" | "int" | "float"), _)) => plain(text),
            Some((_, tag)) => {
                self.fault(
                    mark,
                    format!("the tag `{}` means nothing here: remove it", tag.original()),
                );
                plain(text)
            }
        }
    }
}

/// The parser's words, and what to do for the mistakes that people make most.
fn syntax_fault(error: &ScanError, lines_before: usize) -> Fault {
    let marker = error.marker();
    let mark = Mark {
        line: marker.line() + lines_before,
        column: marker.col() + 1,
    };
    let message = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => {
            "a tab is used for indentation, which YAML does not allow: use spaces".to_owned()
        }
        ErrorKind::UnclosedQuotedScalar => {
            "a quote is opened here or above and never closed: add the missing quote".to_owned()
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            format!("the bracket `{open}` is never closed: add the missing bracket")
        }
        ErrorKind::MappingValueNotAllowed => {
            "a `key: value` cannot stand here: check the indentation, and put a value that has a colon in it into quotes".to_owned()
        }
        ErrorKind::BlockSequenceEntryNotAllowed => {
            "a list item `- …` cannot stand here: check the indentation".to_owned()
        }
        _ => format!("this is not YAML ({}): check the indentation and the quotes", error.info()),
    };
    Fault {
        mark,
        message,
        fatal: true,
    }
}
