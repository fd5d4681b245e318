//! Runs a chat template, which is somebody else's program, on a thread of its own: with a stack that values nested a
//! hundred thousand deep can be dropped on, and with a limit on memory.
//!
//! The template engine counts most of what a template makes, but not all (lists that double in a loop). Rust has no
//! way back from an allocation: it succeeds or the process ends. So the allocator below looks at a budget, on such a
//! thread only, and one that has used it up never comes back from its allocation: it tells the waiting caller and
//! sleeps for good. That leaks the thread and at most the budget; the caller must not run the same program again.

use crate::{panicked, Fail, Outcome};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};

const STACK: usize = 512 << 20; // address space; only what is touched becomes memory
const BUDGET: isize = 256 << 20;

const RUNNING: u32 = 0;
const DONE: u32 = 1;
const OVER_BUDGET: u32 = 2;

struct Shared<T> {
    end: End,
    result: Mutex<Option<T>>,
}

struct End {
    state: AtomicU32,
    waiting: Thread,
}

thread_local! {
    static END: Cell<*const End> = const { Cell::new(std::ptr::null()) };
    static LEFT: Cell<isize> = const { Cell::new(0) };
}

struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

#[cold]
fn sleep_for_good(end: *const End) -> ! {
    END.set(std::ptr::null());
    // SAFETY: END is set only while the thread holds its share of Shared, which it never gives back from here.
    let end = unsafe { &*end };
    end.state.store(OVER_BUDGET, Ordering::Release);
    end.waiting.unpark();
    loop {
        thread::park();
    }
}

#[inline]
fn take(size: usize) {
    let end = END.get();
    if !end.is_null() {
        let left = LEFT.get().saturating_sub_unsigned(size);
        LEFT.set(left);
        if left < 0 {
            sleep_for_good(end);
        }
    }
}

#[inline]
fn give(size: usize) {
    LEFT.set(LEFT.get().saturating_add_unsigned(size));
}

// SAFETY: everything is System's own answer; take() either returns without touching memory or does not return.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        System.alloc_zeroed(layout)
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        give(layout.size());
        System.dealloc(ptr, layout)
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        take(new_size);
        give(layout.size());
        System.realloc(ptr, layout, new_size)
    }
}

pub enum Ran<T> {
    Returned(T),
    OverBudget,
}

/// Runs f; a panic in it is a failure.
pub fn run<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Outcome<Ran<T>> {
    type Held<T> = Shared<Outcome<T>>;
    let shared: Arc<Held<T>> = Arc::new(Shared {
        end: End { state: AtomicU32::new(RUNNING), waiting: thread::current() },
        result: Mutex::new(None),
    });
    let theirs = shared.clone();
    let spawned = thread::Builder::new().name("template".into()).stack_size(STACK).spawn(move || {
        LEFT.set(BUDGET);
        END.set(&theirs.end);
        let result = catch_unwind(AssertUnwindSafe(f)).map_err(|_| panicked());
        END.set(std::ptr::null());
        if let Ok(mut place) = theirs.result.lock() {
            *place = Some(result);
        }
        theirs.end.state.store(DONE, Ordering::Release);
        theirs.end.waiting.unpark();
    });
    let handle = spawned.map_err(|e| Fail::invalid(format!("no thread for the chat template: {e}")))?;
    loop {
        match shared.end.state.load(Ordering::Acquire) {
            RUNNING => thread::park(),
            DONE => break,
            _ => return Ok(Ran::OverBudget),
        }
    }
    // The result is there; joining only frees the stack.
    let _ = handle.join();
    let result = shared.result.lock().ok().and_then(|mut place| place.take());
    match result {
        Some(result) => result.map(Ran::Returned),
        None => Err(Fail::invalid("the chat template's thread gave no result")),
    }
}
