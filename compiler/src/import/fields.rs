//! Reads a JSON object field by field, remembering which fields were asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A JSON object under inspection. Messages name the field and what it holds.
pub struct Fields<'a> {
    /// Path of the object, e.g. `rope_scaling.`; empty for the root.
    prefix: String,
    object: &'a Map<String, Value>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Of an object.
    pub fn new(prefix: impl Into<String>, object: &'a Map<String, Value>) -> Self {
        Self {
            prefix: prefix.into(),
            object,
            known: RefCell::default(),
        }
    }

    /// The value of a field; a JSON `null` is as good as an absent field.
    pub fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(name);
        self.object.get(name).filter(|v| !v.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> String {
        format!("`{}{name}` is {value}; it must be {wanted}", self.prefix)
    }

    fn missing(&self, name: &str) -> String {
        format!("`{}{name}` is missing", self.prefix)
    }

    /// A whole number that may be absent.
    pub fn opt_u64(&self, name: &'static str) -> Result<Option<u64>, String> {
        self.get(name)
            .map(|v| {
                v.as_u64()
                    .ok_or_else(|| self.wrong(name, v, "a whole number"))
            })
            .transpose()
    }

    /// A whole number.
    pub fn u64(&self, name: &'static str) -> Result<u64, String> {
        self.opt_u64(name)?.ok_or_else(|| self.missing(name))
    }

    /// A number that may be absent.
    pub fn opt_f64(&self, name: &'static str) -> Result<Option<f64>, String> {
        self.get(name)
            .map(|v| v.as_f64().ok_or_else(|| self.wrong(name, v, "a number")))
            .transpose()
    }

    /// A number.
    pub fn f64(&self, name: &'static str) -> Result<f64, String> {
        self.opt_f64(name)?.ok_or_else(|| self.missing(name))
    }

    /// A truth value that may be absent.
    pub fn opt_bool(&self, name: &'static str) -> Result<Option<bool>, String> {
        self.get(name)
            .map(|v| {
                v.as_bool()
                    .ok_or_else(|| self.wrong(name, v, "true or false"))
            })
            .transpose()
    }

    /// A string that may be absent.
    pub fn opt_str(&self, name: &'static str) -> Result<Option<&'a str>, String> {
        self.get(name)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(name, v, "a string")))
            .transpose()
    }

    /// An object that may be absent.
    pub fn opt_object(&self, name: &'static str) -> Result<Option<Fields<'a>>, String> {
        self.get(name)
            .map(|v| {
                let object = v
                    .as_object()
                    .ok_or_else(|| self.wrong(name, v, "an object"))?;
                Ok(Fields::new(format!("{}{name}.", self.prefix), object))
            })
            .transpose()
    }

    /// A field whose absence means `expected`, the only value that this compiler builds.
    pub fn only(&self, name: &'static str, expected: &Value) -> Result<(), String> {
        match self.get(name) {
            Some(v) if v != expected => Err(format!(
                "`{}{name}` is {v}, which changes the model's meaning; supported is {expected}",
                self.prefix
            )),
            _ => Ok(()),
        }
    }

    /// Fields that do not change what the model computes.
    pub fn harmless(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// Fields that nobody asked for.
    pub fn unknown(&self) -> Vec<String> {
        let known = self.known.borrow();
        self.object
            .keys()
            .filter(|k| !known.contains(k.as_str()))
            .map(|k| format!("{}{k}", self.prefix))
            .collect()
    }
}
