//! JSON with the path to every value, so that a mistake can be pointed at.
//!
//! In: the text of a launch file. Out: [`Node`]s, each of which knows where it
//! stands; reading one as something that it is not is an [`InputError`] with
//! that place. Keys that occur twice and fields that nobody knows are errors.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::dtype::Num;
use crate::error::InputError;

/// A JSON value. Objects keep the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Num),
    String(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn parse(text: &str) -> Result<Json, InputError> {
        Ok(serde_json::from_str(text)?)
    }

    /// For messages.
    fn what(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a truth value",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// A number, or a string that spells one: hexadecimal, `nan`, `inf`.
    pub fn number(&self) -> Result<Num, String> {
        match self {
            Json::Number(n) => Ok(*n),
            Json::String(s) => Num::parse(s).ok_or_else(|| {
                format!("`{s}` is no number; strings may be hexadecimal (\"0x1f\"), \"nan\", \"inf\" or \"-inf\"")
            }),
            other => Err(format!("{} where a number is needed", other.what())),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Json, D::Error> {
        d.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Json, E> {
        Ok(Json::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
        Ok(Json::Number(Num::Int(v.into())))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
        Ok(Json::Number(Num::Int(v.into())))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Json, E> {
        Ok(Json::Number(Num::Float(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = list.next_element()? {
            out.push(v);
        }
        Ok(Json::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut out: Vec<(String, Json)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key `{key}` occurs twice")));
            }
            out.push((key, map.next_value()?));
        }
        Ok(Json::Object(out))
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub json: &'a Json,
    pub at: String,
}

impl<'a> Node<'a> {
    /// The whole text.
    pub fn root(json: &'a Json) -> Node<'a> {
        Node {
            json,
            at: String::new(),
        }
    }

    pub fn error(&self, message: impl Into<String>) -> InputError {
        let at = if self.at.is_empty() { "." } else { &self.at };
        InputError::field(at, message)
    }

    fn wrong(&self, needed: &str) -> InputError {
        self.error(format!("{} where {needed} is needed", self.json.what()))
    }

    fn key(&self, name: &str) -> String {
        if self.at.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.at)
        }
    }

    /// An object of which all fields are known.
    pub fn fields(self, known: &'static [&'static str]) -> Result<Fields<'a>, InputError> {
        let Json::Object(entries) = self.json else {
            return Err(self.wrong("an object"));
        };
        for (name, _) in entries {
            if !known.contains(&name.as_str()) {
                return Err(InputError::field(
                    self.key(name),
                    format!("nothing has this name here; there is {}", known.join(", ")),
                ));
            }
        }
        Ok(Fields {
            node: self,
            entries,
        })
    }

    /// An object with names of the author's choosing.
    pub fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, InputError> {
        let Json::Object(entries) = self.json else {
            return Err(self.wrong("an object"));
        };
        let node = |(name, json): &'a (String, Json)| {
            let at = self.key(name);
            (name.as_str(), Node { json, at })
        };
        Ok(entries.iter().map(node).collect())
    }

    pub fn list(&self) -> Result<Vec<Node<'a>>, InputError> {
        let node = |(i, json): (usize, &'a Json)| Node {
            json,
            at: format!("{}[{i}]", self.at),
        };
        Ok(self.raw_list()?.iter().enumerate().map(node).collect())
    }

    /// The list without the places of its items, for long ones.
    fn raw_list(&self) -> Result<&'a [Json], InputError> {
        match self.json {
            Json::List(list) => Ok(list),
            _ => Err(self.wrong("a list")),
        }
    }

    /// Numbers, in lists of any depth: the order is that of the text.
    pub fn numbers(&self) -> Result<Vec<Num>, InputError> {
        fn walk(list: &[Json], at: &str, out: &mut Vec<Num>) -> Result<(), InputError> {
            for (i, item) in list.iter().enumerate() {
                match item {
                    Json::List(inner) => walk(inner, &format!("{at}[{i}]"), out)?,
                    item => {
                        let number = item.number();
                        out.push(number.map_err(|m| InputError::field(format!("{at}[{i}]"), m))?);
                    }
                }
            }
            Ok(())
        }
        let list = self.raw_list()?;
        let mut out = Vec::with_capacity(list.len());
        walk(list, &self.at, &mut out)?;
        Ok(out)
    }

    pub fn string(&self) -> Result<&'a str, InputError> {
        match self.json {
            Json::String(s) => Ok(s),
            _ => Err(self.wrong("a string")),
        }
    }

    pub fn bool(&self) -> Result<bool, InputError> {
        match self.json {
            Json::Bool(b) => Ok(*b),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub fn number(&self) -> Result<Num, InputError> {
        self.json.number().map_err(|m| self.error(m))
    }

    /// A finite number.
    pub fn real(&self) -> Result<f64, InputError> {
        match self.number()? {
            Num::Int(i) => Ok(i as f64),
            Num::Float(f) if f.is_finite() => Ok(f),
            _ => Err(self.error("a finite number is needed")),
        }
    }

    pub fn integer(&self) -> Result<i128, InputError> {
        let number = self.number()?;
        number
            .integer()
            .ok_or_else(|| self.error(format!("{number} is no integer")))
    }

    /// An integer from `low` to `high`.
    pub fn within(&self, low: u64, high: u64) -> Result<u64, InputError> {
        let v = self.integer()?;
        match u64::try_from(v) {
            Ok(v) if (low..=high).contains(&v) => Ok(v),
            _ => Err(self.error(format!("{v} is not between {low} and {high}"))),
        }
    }

    pub fn u32(&self, low: u32) -> Result<u32, InputError> {
        Ok(self.within(low.into(), u32::MAX.into())? as u32)
    }

    /// Bytes: a number, or a string with a unit such as `64KiB`.
    pub fn bytes(&self) -> Result<u64, InputError> {
        match self.json {
            Json::String(s) => parse_bytes(s).map_err(|m| self.error(m)),
            _ => self.within(0, u64::MAX),
        }
    }
}

/// `4096`, `64KiB`, `8GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), *shift)))
        .unwrap_or((text, 0));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| {
            format!("`{text}` is no number of bytes; write it like 4096, 64KiB, 16MiB or 8GiB")
        })
}

/// The fields of an object.
pub struct Fields<'a> {
    pub node: Node<'a>,
    entries: &'a [(String, Json)],
}

impl<'a> Fields<'a> {
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        let (_, json) = self.entries.iter().find(|(n, _)| n == name)?;
        Some(Node {
            json,
            at: self.node.key(name),
        })
    }

    pub fn need(&self, name: &str) -> Result<Node<'a>, InputError> {
        self.get(name)
            .ok_or_else(|| self.node.error(format!("the field `{name}` is missing")))
    }

    /// Those of `names` that are there.
    pub fn present(&self, names: &[&'static str]) -> Vec<&'static str> {
        let there = |n: &&&'static str| self.entries.iter().any(|(e, _)| e == **n);
        names.iter().filter(there).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_its_place() {
        let json = Json::parse(r#"{"a": [{"b": [1, [2, "x"]]}]}"#).expect("JSON");
        let a = Node::root(&json).fields(&["a"]).expect("known");
        let item = a.need("a").expect("there").list().expect("list").remove(0);
        let b = item
            .fields(&["b"])
            .expect("known")
            .need("b")
            .expect("there");
        let error = b.numbers().expect_err("x is no number").to_string();
        assert!(
            error.contains("`a[0].b[1][1]`: `x` is no number"),
            "{error}"
        );
        let error = b.string().expect_err("a list").to_string();
        assert!(error.contains("a list where a string"), "{error}");
    }

    #[test]
    fn double_keys_and_unknown_fields_are_refused() {
        let error = Json::parse("{\"a\": 1,\n \"a\": 2}").expect_err("twice");
        assert!(
            error.to_string().contains("`a` occurs twice at line 2"),
            "{error}"
        );
        let json = Json::parse(r#"{"gird": 1}"#).expect("JSON");
        let error = Node::root(&json).fields(&["grid"]).err().expect("unknown");
        assert!(
            error.to_string().contains("`gird`: nothing has this name"),
            "{error}"
        );
        // Depth is bounded by the parser, not by the stack.
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("3KiB"), Ok(3072));
        assert_eq!(parse_bytes("8 GiB"), Ok(8 << 30));
        assert!(parse_bytes("8GB").is_err() && parse_bytes("99999999999GiB").is_err());
    }
}
