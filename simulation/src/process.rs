//! What the process would ask the operating system for and a seed answers instead: the time, and random bytes.
//!
//! The functions of the C library are replaced in this program, so that whatever asks, std and all libraries, is answered by
//! the simulation: the clocks show the time of the host that runs, random bytes come from the seed. This holds from [`begin`]
//! on; the program has one thread then.

#![allow(unsafe_code, reason = "functions of the C library are replaced")]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the clock on the wall shows when a simulation begins: 1 January 2026, in seconds.
const EPOCH_SECONDS: u64 = 1_767_225_600;

/// What the monotonic clock shows then, in nanoseconds: it is long before zero that subtractions end.
const BEGINNING: u64 = 1_000_000_000_000;

static BEGUN: AtomicBool = AtomicBool::new(false);
/// The latest time that any host showed.
static NOW: AtomicU64 = AtomicU64::new(BEGINNING);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// From here on time and chance are simulated.
pub fn begin(seed: u64) {
    RANDOM.store(seed, Ordering::Relaxed);
    BEGUN.store(true, Ordering::Relaxed);
}

/// When the simulation began, on the wall.
pub fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS)
}

/// splitmix64: good enough to be mixed further by whoever asks.
fn next_random() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = RANDOM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Nanoseconds on the monotonic clock of the host that runs; between hosts, the latest that was shown.
fn now() -> u64 {
    if tokio::runtime::Handle::try_current().is_ok() {
        // A paused clock: it asks nobody.
        let shown: Instant = tokio::time::Instant::now().into_std();
        let since = shown.saturating_duration_since(beginning());
        let nanos = BEGINNING + u64::try_from(since.as_nanos()).unwrap_or(0);
        NOW.fetch_max(nanos, Ordering::Relaxed);
        return nanos;
    }
    NOW.load(Ordering::Relaxed)
}

/// The instant at which the monotonic clock showed [`BEGINNING`].
fn beginning() -> Instant {
    static AT: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *AT.get_or_init(|| {
        // Asks this very clock, which must not ask back.
        ASKED.store(true, Ordering::Relaxed);
        let at = Instant::now();
        ASKED.store(false, Ordering::Relaxed);
        at
    })
}

static ASKED: AtomicBool = AtomicBool::new(false);

/// A simulated process that had files below a folder is dead, so its locks on them are gone, though what held them is still
/// in this process: parts of a node hold each other, and nothing of it is ever taken apart but by the end of its process.
pub fn release_locks(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let file = std::fs::read_link(entry.path());
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Ok(file), Some(number)) = (file, number)
            && file.starts_with(folder)
        {
            // SAFETY: taking a lock off a file touches no memory.
            unsafe { libc::flock(number, libc::LOCK_UN) };
        }
    }
    Ok(())
}

/// The clock of POSIX.
///
/// # Safety
/// As `clock_gettime(2)`: `time` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    if !BEGUN.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe {
            real(
                libc::SYS_clock_gettime,
                [clock as usize, time as usize, 0, 0, 0, 0],
            ) as libc::c_int
        };
    }
    let monotonic = if ASKED.load(Ordering::Relaxed) {
        BEGINNING
    } else {
        now()
    };
    let nanos = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            EPOCH_SECONDS * 1_000_000_000 + (monotonic - BEGINNING)
        }
        _ => monotonic,
    };
    if !time.is_null() {
        // SAFETY: it is writable, by this function's contract.
        unsafe {
            (*time).tv_sec = (nanos / 1_000_000_000) as libc::time_t;
            (*time).tv_nsec = (nanos % 1_000_000_000) as libc::c_long;
        }
    }
    0
}

/// Random bytes.
///
/// # Safety
/// As `getrandom(2)`: `length` bytes at `buffer` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: usize,
    flags: libc::c_uint,
) -> isize {
    if !BEGUN.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe {
            real(
                libc::SYS_getrandom,
                [buffer as usize, length, flags as usize, 0, 0, 0],
            ) as isize
        };
    }
    if length > 0 {
        // SAFETY: they are writable, by this function's contract.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        for piece in bytes.chunks_mut(8) {
            let random = next_random().to_le_bytes();
            piece.copy_from_slice(&random[..piece.len()]);
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

type Syscall =
    unsafe extern "C" fn(libc::c_long, usize, usize, usize, usize, usize, usize) -> libc::c_long;

/// The C library's own `syscall(2)`.
///
/// # Safety
/// As the call that is made.
unsafe fn real(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> libc::c_long {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    let mut address = REAL.load(Ordering::Relaxed);
    if address == 0 {
        // SAFETY: looking a name up touches nothing of ours.
        address = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) } as usize;
        assert!(address != 0, "the C library has no syscall");
        REAL.store(address, Ordering::Relaxed);
    }
    // SAFETY: it is the address of that function, whose arguments are passed as integers.
    unsafe { std::mem::transmute::<usize, Syscall>(address)(number, a, b, c, d, e, f) }
}

/// Calls of the operating system by number: some ask for random bytes in this way.
///
/// # Safety
/// As the call that is made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> libc::c_long {
    if number == libc::SYS_getrandom && BEGUN.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe { getrandom(a as *mut libc::c_void, b, 0) as libc::c_long };
    }
    // SAFETY: the arguments are the caller's.
    unsafe { real(number, [a, b, c, d, e, f]) }
}
