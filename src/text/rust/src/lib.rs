//! The Rust side of text/: tokenizers, chat templates and grammars behind a small C ABI (see ../rust.h).
//!
//! Rules of the border:
//!  * every entry runs inside `guard`: a panic becomes LMR_PANIC with its text, never an unwind into C;
//!  * objects are opaque boxes, immutable after opening (a matcher excepted) and so free to share between threads;
//!  * bytes and ids that C should keep go through a sink callback, so no memory changes its owner.

mod bpe;
mod grammar;
mod pyfmt;
mod sandbox;
mod template;
mod tokenizer;

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

pub const LMR_INVALID: i32 = 1;
pub const LMR_CORRUPT: i32 = 2;
pub const LMR_UNSUPPORTED: i32 = 3;
pub const LMR_TOO_LARGE: i32 = 4;
pub const LMR_PANIC: i32 = 5;

/// Why an entry failed: one of the codes above and words for a person.
pub struct Fail {
    pub code: i32,
    pub text: String,
}

impl Fail {
    pub fn invalid(text: impl Into<String>) -> Fail {
        Fail { code: LMR_INVALID, text: text.into() }
    }
    pub fn corrupt(text: impl Into<String>) -> Fail {
        Fail { code: LMR_CORRUPT, text: text.into() }
    }
}

pub type Outcome<T> = Result<T, Fail>;

/// Where C wants its error text: a NUL-terminated string of at most `len` bytes.
#[repr(C)]
pub struct ErrText {
    ptr: *mut u8,
    len: usize,
}

/// Takes bytes out to C; called any number of times.
pub type ByteSink = extern "C" fn(ctx: *mut core::ffi::c_void, bytes: *const u8, len: usize);
pub type IdSink = extern "C" fn(ctx: *mut core::ffi::c_void, ids: *const u32, n: usize);

thread_local! {
    static PANIC_TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are reported through the return value; nothing is printed by a library.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string().replace('\n', " ");
            PANIC_TEXT.with(|p| {
                if let Ok(mut p) = p.try_borrow_mut() {
                    *p = text;
                }
            });
        }));
    });
}

/// What the last panic of this thread said.
pub fn panicked() -> Fail {
    let text = PANIC_TEXT.with(|p| p.try_borrow_mut().map(|mut p| std::mem::take(&mut *p)).unwrap_or_default());
    Fail { code: LMR_PANIC, text: format!("the text library failed: {text}") }
}

fn write_text(err: ErrText, text: &str) {
    if err.ptr.is_null() || err.len == 0 {
        return;
    }
    let mut n = text.len().min(err.len - 1);
    while !text.is_char_boundary(n) {
        n -= 1;
    }
    // SAFETY: C says that err.len bytes are its own and writable; n < err.len.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), err.ptr, n);
        *err.ptr.add(n) = 0;
    }
}

pub fn guard(err: ErrText, f: impl FnOnce() -> Outcome<()>) -> i32 {
    quiet_panics();
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(fail)) => {
            write_text(err, &fail.text);
            fail.code
        }
        Err(_) => {
            write_text(err, &panicked().text);
            LMR_PANIC
        }
    }
}

/// For entries that cannot say why: closing, looking up.
pub fn guard_value<T>(otherwise: T, f: impl FnOnce() -> T) -> T {
    quiet_panics();
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(otherwise)
}

/// # Safety
/// ptr is NULL with len 0, or len bytes that live as long as the call.
pub unsafe fn bytes_of<'a>(ptr: *const u8, len: usize) -> &'a [u8] {
    if ptr.is_null() || len == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(ptr, len)
    }
}

/// # Safety
/// As for bytes_of.
pub unsafe fn text_of<'a>(ptr: *const u8, len: usize, what: &str) -> Outcome<&'a str> {
    std::str::from_utf8(bytes_of(ptr, len))
        .map_err(|e| Fail::invalid(format!("{what} is not valid UTF-8 at byte {}", e.valid_up_to())))
}
