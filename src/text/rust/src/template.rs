//! Chat templates: minijinja set up to do what transformers' jinja2 environment does.

use crate::pyfmt::{self, Dumps};
use crate::sandbox::{self, Ran};
use crate::{bytes_of, guard, guard_value, text_of, ByteSink, ErrText, Fail, Outcome};
use core::ffi::{c_char, c_void};
use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// strftime of the local time: writes at most room bytes, returns how many.
pub type Clock = extern "C" fn(format: *const c_char, out: *mut u8, room: usize) -> usize;

/// What one render may cost, in minijinja's fuel: an instruction or 64 bytes each. What it may hold in memory at a time is the
/// sandbox's affair.
const FUEL: u64 = 4_000_000;
const MAX_SOURCE: usize = 1 << 20;

pub struct Tmpl {
    env: Arc<Environment<'static>>,
    source: String,         // as it runs: line ends and {% generation %} replaced
    over_memory: AtomicBool, // it has used up its memory once: never run again
}

const NAME: &str = "chat template";

/// What raise_exception said; found again at the root of the error that a render returns.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn words_of(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(raised) = e.downcast_ref::<Raised>() {
            return raised.0.clone();
        }
        cause = e.source();
    }
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not come to an end (over the limit of work for one prompt)".to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("chat template, line {line}: {what}"),
        None => format!("chat template: {what}"),
    }
}

// ---- functions and filters -------------------------------------------------------------------------------------

fn raise_exception(message: Value) -> Result<Value, Error> {
    let text = pyfmt::to_str(&message)?;
    Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Raised(text)))
}

/// tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)
fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let pick = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match args.get(index) {
            Some(v) => Some(v.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let indent = match pick(1, "indent")? {
        None => None,
        Some(v) if v.kind() == ValueKind::String => Some(v.as_str().unwrap_or("").to_string()),
        Some(v) => Some(" ".repeat(v.as_i64().unwrap_or(0).clamp(0, 64) as usize)),
    };
    let mut separators = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(v) = pick(2, "separators")? {
        let text = |i| -> Result<String, Error> { Ok(v.get_item_by_index(i)?.to_string()) };
        separators = (text(0)?, text(1)?);
    }
    let dumps = Dumps {
        ensure_ascii: pick(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        indent,
        item_separator: separators.0,
        key_separator: separators.1,
        sort_keys: pick(3, "sort_keys")?.is_some_and(|v| v.is_true()),
    };
    kwargs.assert_all_used()?;
    dumps.dumps(value).map(Value::from)
}

fn string(value: &Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        Ok(value.clone())
    } else {
        pyfmt::to_str(value).map(Value::from)
    }
}

/// Methods of Python's str and dict that pycompat leaves out.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(s) = value.as_str() {
        match name {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(s.strip_prefix(prefix).unwrap_or(s)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(s.strip_suffix(suffix).unwrap_or(s)));
            }
            "partition" | "rpartition" => {
                let (sep,): (&str,) = from_args(args)?;
                let parts = match if name == "partition" { s.split_once(sep) } else { s.rsplit_once(sep) } {
                    Some((a, b)) => [a, sep, b],
                    None if name == "partition" => [s, "", ""],
                    None => ["", "", s],
                };
                return Ok(Value::from(parts.map(Value::from).to_vec()));
            }
            "rsplit" => {
                let (sep, limit): (Option<&str>, Option<i64>) = from_args(args)?;
                let limit = limit.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
                let mut parts: Vec<Value> = match sep {
                    Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                    Some(sep) => s.rsplitn(limit, sep).map(Value::from).collect(),
                    None if limit == usize::MAX => s.split_whitespace().rev().map(Value::from).collect(),
                    None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit needs a separator")),
                };
                parts.reverse();
                return Ok(Value::from(parts));
            }
            "casefold" => return Ok(Value::from(s.to_lowercase())),
            _ => {}
        }
    }
    if name == "copy" && matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
        return Ok(value.clone());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn format_value(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let wrote = if pyfmt::differs(value) {
        out.write_str(&pyfmt::to_str(value)?)
    } else {
        fmt::Write::write_fmt(out, format_args!("{value}"))
    };
    wrote.map_err(|_| Error::new(ErrorKind::WriteFailure, "could not write"))
}

fn environment(clock: Clock) -> Outcome<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| Fail::invalid(e.to_string()))?);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(method);
    env.set_formatter(format_value);
    env.set_fuel(Some(FUEL));
    env.add_filter("tojson", tojson);
    env.add_filter("string", string);
    // None is not iterable in Python; templates ask that of tools.
    env.add_test("iterable", |v: &Value| !v.is_none() && (v.is_undefined() || v.try_iter().is_ok()));
    env.add_function("raise_exception", raise_exception);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_function("cycler", minijinja_contrib::globals::cycler);
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        let mut format = format.as_bytes().to_vec();
        let mut out = vec![0u8; 512];
        format.push(0);
        let n = clock(format.as_ptr().cast(), out.as_mut_ptr(), out.len());
        out.truncate(n);
        String::from_utf8(out).map_err(|_| Error::new(ErrorKind::InvalidOperation, "strftime_now: not UTF-8"))
    });
    Ok(env)
}

// ---- the source ------------------------------------------------------------------------------------------------

/// Line ends as jinja2 reads them, and {% generation %} blocks (markers for training, nothing for a prompt) as a
/// condition that always holds.
fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        out.push_str(&rest[..at + 2]);
        rest = &rest[at + 2..];
        let body = rest.trim_start_matches(['-', '+']);
        let trimmed = body.trim_start();
        for (word, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let Some(after) = trimmed.strip_prefix(word) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                out.push_str(&rest[..rest.len() - trimmed.len()]);
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether the name stands anywhere inside a tag, and neither as an attribute nor in quotes.
fn mentions(source: &str, name: &str) -> bool {
    let mut rest = source;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(open) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let close = if rest[open..].starts_with("{{") { "}}" } else { "%}" };
        let body = &rest[open + 2..];
        let body = &body[..body.find(close).unwrap_or(body.len())];
        for (at, _) in body.match_indices(name) {
            let before = body[..at].chars().next_back().unwrap_or(' ');
            let after = body[at + name.len()..].chars().next().unwrap_or(' ');
            let quoted = |c| matches!(c, '\'' | '"');
            if !is_word(before) && before != '.' && !quoted(before) && !is_word(after) && !quoted(after) {
                return true;
            }
        }
        rest = &rest[open + 2 + body.len()..];
    }
    false
}

impl Tmpl {
    fn open(source: &str, clock: Clock) -> Outcome<Tmpl> {
        if source.len() > MAX_SOURCE {
            return Err(Fail::invalid(format!("the chat template is larger than {} KB", MAX_SOURCE >> 10)));
        }
        let source = prepare(source);
        let mut env = environment(clock)?;
        env.add_template_owned(NAME, source.clone()).map_err(|e| Fail::invalid(words_of(&e)))?;
        Ok(Tmpl { env: Arc::new(env), source, over_memory: AtomicBool::new(false) })
    }

    fn render(&self, context: &[u8]) -> Outcome<String> {
        let context: Value = serde_json::from_slice(context).map_err(|e| Fail::invalid(format!("context: {e}")))?;
        if context.kind() != ValueKind::Map {
            return Err(Fail::invalid("context: not a JSON object"));
        }
        if !self.over_memory.load(Ordering::Relaxed) {
            let env = self.env.clone();
            let work = move || -> Result<String, Error> { env.get_template(NAME)?.render(context) };
            if let Ran::Returned(result) = sandbox::run(move || work().map_err(|e| words_of(&e)))? {
                return result.map_err(Fail::invalid);
            }
            self.over_memory.store(true, Ordering::Relaxed);
        }
        Err(Fail::invalid("chat template: it needs more memory than any prompt should"))
    }
}

// ---- the border ------------------------------------------------------------------------------------------------

#[no_mangle]
pub extern "C" fn lmr_tmpl_open(out: *mut *mut Tmpl, source: *const u8, len: usize, clock: Clock, err: ErrText) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's and a place for the result.
        let tmpl = Tmpl::open(unsafe { text_of(source, len, "the chat template") }?, clock)?;
        unsafe { *out = Box::into_raw(Box::new(tmpl)) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_tmpl_close(tmpl: *mut Tmpl) {
    guard_value((), || {
        if !tmpl.is_null() {
            // SAFETY: made by lmr_tmpl_open, given back once.
            drop(unsafe { Box::from_raw(tmpl) });
        }
    })
}

#[no_mangle]
pub extern "C" fn lmr_tmpl_render(
    tmpl: &Tmpl, context: *const u8, len: usize, sink: ByteSink, ctx: *mut c_void, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's.
        let text = tmpl.render(unsafe { bytes_of(context, len) })?;
        sink(ctx, text.as_ptr(), text.len());
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_tmpl_uses(tmpl: &Tmpl, name: *const u8, len: usize) -> bool {
    // SAFETY: a view of C's.
    guard_value(false, || match unsafe { text_of(name, len, "the name") } {
        Ok(name) => !name.is_empty() && mentions(&tmpl.source, name),
        Err(_) => false,
    })
}
