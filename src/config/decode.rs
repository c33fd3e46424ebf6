//! Decodes a tree into any type that serde knows, and goes on after a mistake.
//!
//! Serde stops at the first value that does not fit. Here its place is then left out, as if it had
//! not been written, and decoding begins anew, until everything fits: that yields all mistakes.
//! It asks that types have a default for what may be left out.

use super::{
    near,
    yaml::{Fault, Key, Node, Position, Value},
};
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, Unexpected, Visitor, value::StrDeserializer},
};
use std::{collections::BTreeMap, fmt, slice, str::FromStr};

/// None when the type has no default for a place that was left out.
pub(super) fn decode<'de, T: Deserialize<'de>>(
    root: &'de Node,
    faults: &mut Vec<Fault>,
) -> (Option<T>, LeftOut) {
    let mut left_out = LeftOut::default();
    loop {
        match T::deserialize(Cursor { node: root, path: String::new(), left_out: &left_out }) {
            Ok(value) => return (Some(value), left_out),
            Err(fault) => {
                if !left_out.covers(&fault.path) {
                    faults.push(fault.clone());
                }
                if faults.len() == FAULTS_MAX {
                    left_out.0.insert(String::new(), Instead::Nothing);
                    return (None, left_out);
                }
                if !left_out.add(&fault.path) {
                    return (None, left_out);
                }
            }
        }
    }
}

/// More help nobody, and each costs another run.
const FAULTS_MAX: usize = 100;

/// Places whose values do not fit, by path.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<String, Instead>);

/// What is read in such a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// A key without a value, which suits mappings and keeps their name.
    Nothing,
    /// Not even the key.
    Absence,
}

impl LeftOut {
    /// Whether what stands at `path` is not what was written.
    pub(super) fn covers(&self, path: &str) -> bool {
        self.0.keys().any(|left_out| below(path, left_out))
    }

    /// Whether something at `path` or below it is not what was written.
    pub(super) fn touches(&self, path: &str) -> bool {
        self.covers(path) || self.0.keys().any(|left_out| below(left_out, path))
    }

    /// Goes one step further at `path`, or above it where no step is left; false at the very top.
    fn add(&mut self, mut path: &str) -> bool {
        loop {
            let next = match self.0.get(path) {
                None => Instead::Nothing,
                // Without one of its items a list would change its numbering.
                Some(Instead::Nothing) if !path.is_empty() && !path.ends_with(']') => {
                    Instead::Absence
                }
                Some(_) if path.is_empty() => return false,
                Some(_) => {
                    path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
                    continue;
                }
            };
            self.0.insert(path.to_string(), next);
            return true;
        }
    }

    fn at(&self, path: &str) -> Option<Instead> {
        self.0.get(path).copied()
    }
}

/// Whether `path` is `root` or stands in it.
fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| root.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `a.b` for a key, `a[0]` for an item.
pub(super) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

struct Cursor<'de, 'c> {
    node: &'de Node,
    path: String,
    left_out: &'c LeftOut,
}

impl<'de, 'c> Cursor<'de, 'c> {
    fn value(&self) -> &'de Value {
        static NOTHING: Value = Value::Nothing;
        if self.left_out.at(&self.path).is_some() { &NOTHING } else { &self.node.value }
    }

    fn expected(&self, what: impl fmt::Display) -> Fault {
        Fault {
            at: Some(self.node.at),
            path: self.path.clone(),
            text: format!("expected {what}, met {}", self.value()),
        }
    }

    /// Adds the place to an error of a visitor, which knows none.
    fn placed<T>(at: Position, path: String, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| match fault.at {
            Some(_) => fault,
            None => Fault { at: Some(at), path, ..fault },
        })
    }

    fn scalar<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar(text) => {
                Self::placed(self.node.at, self.path, visitor.visit_borrowed_str(text))
            }
            _ => Err(self.expected(&visitor as &dyn de::Expected)),
        }
    }

    fn number<N: FromStr>(&self) -> Result<N, Fault> {
        match self.value() {
            Value::Scalar(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.expected("a whole number"))
    }
}

/// The types that configurations are made of; all others read a scalar's text.
impl<'de> Deserializer<'de> for Cursor<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Nothing => visitor.visit_unit(),
            Value::Scalar(_) => self.scalar(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar(text) if text == "true" => visitor.visit_bool(true),
            Value::Scalar(text) if text == "false" => visitor.visit_bool(false),
            _ => Err(self.expected("true or false")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.number()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u32(self.number()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u64(self.number()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Nothing => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Nothing => visitor.visit_seq(Items { nodes: [].iter(), next: 0, cursor: &self }),
            Value::List(nodes) => {
                visitor.visit_seq(Items { nodes: nodes.iter(), next: 0, cursor: &self })
            }
            _ => Err(self.expected("a list")),
        }
    }

    /// A key with everything below it commented out is an empty mapping.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = match self.value() {
            Value::Nothing => [].iter(),
            Value::Map(entries) => entries.iter(),
            _ => return Err(self.expected("keys with values (key: value)")),
        };
        let map = visitor.visit_map(Entries { entries, value: None, cursor: &self });
        Self::placed(self.node.at, self.path, map)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar(text) if variants.contains(&&text[..]) => {
                visitor.visit_enum(StrDeserializer::<Fault>::new(text))
            }
            _ => Err(self.expected(variants.join(" or "))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Items<'de, 'c> {
    nodes: slice::Iter<'de, Node>,
    next: usize,
    cursor: &'c Cursor<'de, 'c>,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        let path = item(&self.cursor.path, self.next);
        self.next += 1;
        seed.deserialize(Cursor { node, path, left_out: self.cursor.left_out }).map(Some)
    }
}

struct Entries<'de, 'c> {
    entries: slice::Iter<'de, (Key, Node)>,
    value: Option<(&'de Node, String)>,
    cursor: &'c Cursor<'de, 'c>,
}

impl<'de> de::MapAccess<'de> for Entries<'de, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        for (key, node) in self.entries.by_ref() {
            let path = child(&self.cursor.path, &key.name);
            if self.cursor.left_out.at(&path) != Some(Instead::Absence) {
                let name = seed.deserialize(StrDeserializer::<Fault>::new(&key.name));
                self.value = Some((node, path.clone()));
                return Cursor::placed(key.at, path, name).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((node, path)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Cursor { node, path, left_out: self.cursor.left_out })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Scalar(text) => write!(f, "{text:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("keys with values"),
        }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { at: None, path: String::new(), text: text.to_string() }
    }

    fn invalid_value(met: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match met {
            Unexpected::Str(text) => Self::custom(format!("expected {expected}, met {text:?}")),
            Unexpected::Signed(number) => {
                Self::custom(format!("expected {expected}, met {number}"))
            }
            _ => Self::custom(format!("expected {expected}, met {met}")),
        }
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let hint = near::hint(name, known.iter().copied());
        Self::custom(format!("there is no such key; {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        name: String,
        number: u32,
        flag: bool,
        maybe: Option<String>,
        color: Color,
        inner: Inner,
        list: Vec<Inner>,
        named: BTreeMap<String, Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        size: u32,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        #[default]
        Red,
        Blue,
    }

    fn read(text: &str) -> (Outer, Vec<String>) {
        let mut faults = Vec::new();
        let root = yaml::parse(text, &mut faults).expect("the text is YAML");
        let (outer, _) = decode(&root, &mut faults);
        let print = |fault: &Fault| match fault.at {
            Some(at) => format!("{at} {}: {}", fault.path, fault.text),
            None => format!("{}: {}", fault.path, fault.text),
        };
        (outer.expect("everything has a default"), faults.iter().map(print).collect())
    }

    #[test]
    fn reads_what_fits() {
        let text = "name: 1e3\nnumber: 7\nflag: true\nmaybe: on\ncolor: blue\ninner: {size: 1}\n\
                    list:\n- size: 2\nnamed:\n  a:\n    size: 3\n  b:\n";
        let (outer, faults) = read(text);
        assert_eq!(faults, [""; 0]);
        assert_eq!((&outer.name[..], outer.number, outer.flag), ("1e3", 7, true));
        assert_eq!((outer.maybe.as_deref(), outer.color), (Some("on"), Color::Blue));
        assert_eq!((outer.inner.size, outer.list[0].size), (1, 2));
        assert_eq!((outer.named["a"].size, outer.named["b"].size), (3, 0));
    }

    #[test]
    fn finds_every_mistake_and_keeps_the_rest() {
        let text = "name: [a]\nnumber: many\nflag: yes\ncolour: red\ncolor: green\n\
                    inner:\n  sise: 1\n  size: 2\nlist: 5\nnamed:\n  a: {size: -1}\n";
        let (outer, faults) = read(text);
        assert_eq!(
            faults,
            [
                r#"1:7 name: expected a string, met a list"#,
                r#"2:9 number: expected a whole number, met "many""#,
                r#"3:7 flag: expected true or false, met "yes""#,
                r#"4:1 colour: there is no such key; did you mean color?"#,
                r#"5:8 color: expected red or blue, met "green""#,
                r#"7:3 inner.sise: there is no such key; did you mean size?"#,
                r#"9:7 list: expected a list, met "5""#,
                r#"11:13 named.a.size: expected a whole number, met "-1""#,
            ]
        );
        assert_eq!(outer.inner.size, 2);
    }

    #[test]
    fn a_wrong_item_keeps_its_place_in_the_list() {
        let (outer, faults) = read("list:\n- 1\n- {size: 2}\n- {size: x}\n");
        assert_eq!(outer.list.iter().map(|item| item.size).collect::<Vec<_>>(), [0, 2, 0]);
        assert_eq!(
            faults,
            [
                r#"2:3 list[0]: expected keys with values (key: value), met "1""#,
                r#"4:10 list[2].size: expected a whole number, met "x""#,
            ]
        );
    }

    #[test]
    fn a_wrong_value_keeps_its_name() {
        let (outer, faults) = read("named:\n  a: 5\n  b: {size: 1}\n");
        assert_eq!(outer.named.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn a_root_that_is_no_mapping_is_one_mistake() {
        let (outer, faults) = read("- a\n");
        assert_eq!(outer, Outer::default());
        assert_eq!(faults, ["1:1 : expected keys with values (key: value), met a list"]);
    }

    #[test]
    fn keys_given_twice_and_aliases_are_mistakes() {
        let (_, faults) = read("name: a\nname: b\ninner: &x {size: 1}\nlist: [*x]\n");
        assert_eq!(
            faults,
            [
                "2:1 : name was already given on line 1",
                "4:8 : anchors and aliases (& and *) are not read; write the value out",
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_is_an_error_with_its_place() {
        for (text, line) in [("a: [1\n", 2), ("a: b: c\n", 1), ("a: 1\n---\nb: 2\n", 2)] {
            let fault = yaml::parse(text, &mut Vec::new()).expect_err(text);
            assert_eq!(fault.at.map(|at| at.line), Some(line), "{text:?}: {}", fault.text);
        }
        let deep = "[".repeat(100);
        assert!(yaml::parse(&deep, &mut Vec::new()).is_err());
    }
}
