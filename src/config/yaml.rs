//! YAML text as a tree that remembers where everything was written.
//!
//! Scalars stay text: what a scalar means is decided by the key it is given to, so that neither
//! `name: on` nor `name: 1e3` turns into something else.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::{collections::HashMap, fmt};

/// Counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Nothing at all, `~` or `null`.
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) name: String,
}

/// Something that cannot stay as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: Option<Position>,
    /// Empty when the fault is not that of a value.
    pub(super) path: String,
    pub(super) text: String,
}

/// Reads one document. Faults that leave a tree to work with are added to `faults`.
///
/// # Errors
/// The text is not YAML, or not one document.
pub(super) fn parse(text: &str, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
    let mut reader = Reader { parser: Parser::new_from_str(text), depth: 0, faults };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, span) => return Ok(Node { at: span.into(), value: Value::Nothing }),
            (event, span) => {
                let root = reader.node(event, span)?;
                return reader.end().map(|()| root);
            }
        }
    }
}

/// Deep enough for any configuration, and far from exhausting the stack.
const DEPTH_MAX: usize = 32;

struct Reader<'text, 'faults> {
    parser: Parser<'text, saphyr_parser::StrInput<'text>>,
    depth: usize,
    faults: &'faults mut Vec<Fault>,
}

impl<'text> Reader<'text, '_> {
    fn next(&mut self) -> Result<(Event<'text>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(Fault::at(*error.marker(), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'text>, span: Span) -> Result<Node, Fault> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::at(span.start, "it is nested too deeply"));
        }
        self.depth += 1;
        let value = match event {
            Event::Scalar(text, style, ..) => match &text[..] {
                "" | "~" | "null" if style == ScalarStyle::Plain => Value::Nothing,
                _ => Value::Scalar(text.into_owned()),
            },
            Event::SequenceStart(..) => self.list()?,
            Event::MappingStart(..) => self.map()?,
            Event::Alias(_) => {
                let text = "anchors and aliases (& and *) are not read; write the value out";
                self.faults.push(Fault::at(span.start, text));
                Value::Nothing
            }
            _ => return Err(Fault::at(span.start, "expected a value")),
        };
        self.depth -= 1;
        Ok(Node { at: span.into(), value })
    }

    fn list(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Value, Fault> {
        let mut entries = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Map(entries)),
                (Event::Scalar(name, ..), span) => Key { at: span.into(), name: name.into() },
                (_, span) => return Err(Fault::at(span.start, "a key must be a plain word")),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            match lines.get(&key.name) {
                None => {
                    lines.insert(key.name.clone(), key.at.line);
                    entries.push((key, node));
                }
                Some(line) => self.faults.push(Fault {
                    at: Some(key.at),
                    path: String::new(),
                    text: format!("{} was already given on line {line}", key.name),
                }),
            }
        }
    }

    /// Refuses a second document, which would be ignored in silence.
    fn end(&mut self) -> Result<(), Fault> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    return Err(Fault::at(span.start, "a second document begins here"));
                }
                _ => {}
            }
        }
    }
}

impl Fault {
    fn at(at: impl Into<Position>, text: &str) -> Self {
        Self { at: Some(at.into()), path: String::new(), text: text.into() }
    }
}

impl From<Span> for Position {
    fn from(span: Span) -> Self {
        span.start.into()
    }
}

impl From<saphyr_parser::Marker> for Position {
    fn from(marker: saphyr_parser::Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
