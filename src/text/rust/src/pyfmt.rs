//! Values as Python writes them: `str()`, `repr()` and `json.dumps()`, so that a prompt is the same, byte for byte, as
//! the one that the model's authors rendered.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// Deeper values exist only in templates that mean harm.
const MAX_DEPTH: usize = 200;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply")
}

/// repr(float): the shortest digits that read back the same, an exponent below 1e-4 and from 1e16 on.
fn write_float(out: &mut String, v: f64, nan: &str, infinity: &str) {
    if v.is_nan() {
        out.push_str(nan);
        return;
    }
    if v.is_infinite() {
        let _ = write!(out, "{}{infinity}", if v < 0.0 { "-" } else { "" });
        return;
    }
    let e = format!("{v:e}");
    let (digits, exponent) = e.split_once('e').unwrap_or((&e, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..16).contains(&exponent) {
        let _ = write!(out, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
        return;
    }
    let start = out.len();
    let _ = write!(out, "{v}");
    if !out[start..].contains('.') {
        out.push_str(".0");
    }
}

fn is_float(v: &Value) -> Option<f64> {
    if v.kind() == ValueKind::Number && !v.is_integer() {
        f64::try_from(v.clone()).ok()
    } else {
        None
    }
}

/// repr(str)
fn write_repr(out: &mut String, s: &str) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn write_inner(out: &mut String, v: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match v.kind() {
        ValueKind::String => write_repr(out, v.as_str().unwrap_or("")),
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => write_str(out, v, depth)?,
    }
    Ok(())
}

fn write_str(out: &mut String, v: &Value, depth: usize) -> Result<(), Error> {
    match v.kind() {
        ValueKind::Number => match is_float(v) {
            Some(f) => write_float(out, f, "nan", "inf"),
            None => {
                let _ = write!(out, "{v}");
            }
        },
        ValueKind::Seq => {
            let tuple = v.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut n = 0;
            for item in v.try_iter()? {
                if n > 0 {
                    out.push_str(", ");
                }
                write_inner(out, &item, depth + 1)?;
                n += 1;
            }
            if tuple && n == 1 {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in v.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_inner(out, &key, depth + 1)?;
                out.push_str(": ");
                write_inner(out, &v.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{v}");
        }
    }
    Ok(())
}

/// True for what minijinja itself would write otherwise than Python does.
pub fn differs(v: &Value) -> bool {
    matches!(v.kind(), ValueKind::Seq | ValueKind::Map) || is_float(v).is_some()
}

/// str(v)
pub fn to_str(v: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_str(&mut out, v, 0)?;
    Ok(out)
}

/// The keyword arguments of json.dumps that templates use.
pub struct Dumps {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl Dumps {
    fn string(&self, out: &mut String, s: &str) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && c as u32 >= 0x7f && c != '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    /// Keys are strings; numbers, booleans and None become strings as json.dumps has it.
    fn key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(out, key.as_str().unwrap_or("")),
            ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                out.push('"');
                self.value(out, key, 0)?;
                out.push('"');
            }
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "keys must be str, int, float, bool or None")),
        }
        Ok(())
    }

    fn value(&self, out: &mut String, v: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match v.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if v.is_true() { "true" } else { "false" }),
            ValueKind::Number => match is_float(v) {
                Some(f) => write_float(out, f, "NaN", "Infinity"),
                None => {
                    let _ = write!(out, "{v}");
                }
            },
            ValueKind::String => self.string(out, v.as_str().unwrap_or("")),
            ValueKind::Seq => {
                let mut n = 0;
                out.push('[');
                for item in v.try_iter()? {
                    if n > 0 {
                        out.push_str(&self.item_separator);
                    }
                    self.new_line(out, depth + 1);
                    self.value(out, &item, depth + 1)?;
                    n += 1;
                }
                if n > 0 {
                    self.new_line(out, depth);
                }
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = v.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    if i > 0 {
                        out.push_str(&self.item_separator);
                    }
                    self.new_line(out, depth + 1);
                    self.key(out, key)?;
                    out.push_str(&self.key_separator);
                    self.value(out, &v.get_item(key)?, depth + 1)?;
                }
                if !keys.is_empty() {
                    self.new_line(out, depth);
                }
                out.push('}');
            }
            kind => {
                let text = format!("Object of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
        Ok(())
    }

    pub fn dumps(&self, v: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(&mut out, v, 0)?;
        Ok(out)
    }
}
