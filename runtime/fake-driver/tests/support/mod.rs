//! The fake driver for tests of other crates: builds it, and starts tests under it.
//!
//! A process finds `libcuda.so.1` by the loader's path, which is read when it starts: a test that wants the fake
//! driver runs itself again as a child with that path. Include this file with `#[path]`, and write
//!
//! ```ignore
//! #[test]
//! fn copies_arrive() {
//!     fake::Driver::default().run("copies_arrive", |fake| { /* cuInit and so on */ });
//! }
//! ```
//!
//! Needs the crates `libloading` and `tempfile`.

#![allow(dead_code, reason = "each test file that includes it uses a part")]

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

/// Set in children.
const CHILD: &str = "MCC_FAKE_CHILD";

/// A driver to run a test under.
#[derive(Default)]
pub struct Driver<'a> {
    /// As the environment variable `MCC_FAKE_CUDA`.
    pub settings: &'a str,
    /// Functions that it lacks, as an old driver does.
    pub without: &'a [&'a str],
}

impl Driver<'_> {
    /// Runs `body` under this driver, in a child process that runs only the test of this name.
    ///
    /// # Panics
    /// When the body does, in the parent as well.
    pub fn run(&self, test: &str, body: impl FnOnce(&Fake)) {
        self.run_with(test, &[], body);
    }

    /// The same; the child also gets variables that name files.
    ///
    /// # Panics
    /// When the body does, in the parent as well.
    pub fn run_with(&self, test: &str, variables: &[(&str, &Path)], body: impl FnOnce(&Fake)) {
        if std::env::var_os(CHILD).is_some() {
            return body(&Fake::load());
        }
        let patched = (!self.without.is_empty()).then(|| without(self.without));
        let folder = match &patched {
            Some(dir) => dir.path(),
            None => folder(),
        };
        let output = Command::new(std::env::current_exe().expect("a test has a file"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .env("MCC_FAKE_CUDA", self.settings)
            .env("LD_LIBRARY_PATH", folder)
            .envs(variables.iter().copied())
            .output()
            .expect("a test starts itself");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "under the fake driver:\n{out}\n{err}"
        );
        assert!(
            out.contains("1 passed"),
            "no test is called `{test}`:\n{out}"
        );
    }
}

/// A folder with the library as `libcuda.so.1`, to be put into `LD_LIBRARY_PATH`; it is built when it is not there.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["libcuda.so.1", "libcuda.so"] {
            std::os::unix::fs::symlink(build(), dir.path().join(name)).expect("a link");
        }
        dir
    };
    FOLDER.get_or_init(make).path()
}

/// The library, built as the running test was.
fn build() -> PathBuf {
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("a profile's folder");
    let target = profile.parent().expect("a target folder");
    let release = profile.file_name().is_some_and(|name| name == "release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--offline", "-p", "mcc-fake-driver"])
        .args(release.then_some("--release"))
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "the fake driver does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let profile = if release { "release" } else { "debug" };
    target.join(profile).join("libmcc_fake_driver.so")
}

/// A driver that lacks functions: their names are spoilt in a copy of the library.
fn without(functions: &[&str]) -> tempfile::TempDir {
    let mut bytes = std::fs::read(folder().join("libcuda.so.1")).expect("built");
    for function in functions {
        let name: Vec<u8> = function.bytes().chain([0]).collect();
        let places: Vec<usize> = (0..bytes.len() - name.len())
            .filter(|&at| bytes[at..].starts_with(&name))
            .collect();
        assert!(!places.is_empty(), "the driver has no {function}");
        for at in places {
            bytes[at + name.len() - 2] = b'?';
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("libcuda.so.1"), bytes).expect("writes");
    dir
}

/// The driver of this process, from its other side.
pub struct Fake {
    pub library: Library,
}

impl Fake {
    fn load() -> Self {
        // SAFETY: the fake driver has no initialisers.
        let library = unsafe { Library::new("libcuda.so.1") }.expect("the loader's path has it");
        Self { library }
    }

    fn get<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the types below are those of `control.rs`.
        let found = unsafe { self.library.get::<T>(name.as_bytes()) };
        *found.expect("a control function")
    }

    /// As a new process would find it.
    pub fn reset(&self) {
        // SAFETY: takes nothing; nobody else calls the driver meanwhile.
        unsafe { self.get::<unsafe extern "C" fn()>("mcc_fake_reset")() };
    }

    /// Changes a setting.
    pub fn set(&self, key: &str, value: &str) {
        type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> i32;
        let [k, v] = [key, value].map(|t| CString::new(t).expect("no NUL"));
        // SAFETY: both are NUL-terminated.
        let code = unsafe { self.get::<Set>("mcc_fake_set")(k.as_ptr(), v.as_ptr()) };
        assert_eq!(code, 0, "{key}={value}");
    }

    /// Makes the n-th call from now on fail; the next is number 1.
    pub fn fail(&self, nth: u64, code: u32) {
        // SAFETY: takes any numbers.
        unsafe { self.get::<unsafe extern "C" fn(u64, u32)>("mcc_fake_fail")(nth, code) };
    }

    /// Takes failures back; how many have not happened.
    pub fn fail_none(&self) -> u64 {
        self.number("mcc_fake_fail_none")
    }

    /// Names of all calls so far.
    pub fn calls(&self) -> Vec<String> {
        type Name = unsafe extern "C" fn(u64) -> *const c_char;
        let name = self.get::<Name>("mcc_fake_call_name");
        let text = |i| {
            // SAFETY: names live as long as the library.
            let name = unsafe { CStr::from_ptr(name(i)) };
            name.to_string_lossy().into_owned()
        };
        (0..self.number("mcc_fake_calls")).map(text).collect()
    }

    /// Objects of a kind that were not given back; of all kinds for an empty name.
    pub fn live(&self, kind: &str) -> i64 {
        type Live = unsafe extern "C" fn(*const c_char) -> i64;
        let kind = CString::new(kind).expect("no NUL");
        // SAFETY: NUL-terminated.
        unsafe { self.get::<Live>("mcc_fake_live")(kind.as_ptr()) }
    }

    /// Kernels that have run.
    pub fn kernels(&self) -> u64 {
        self.number("mcc_fake_kernels")
    }

    /// Pieces of work that are queued.
    pub fn pending(&self) -> u64 {
        self.number("mcc_fake_pending")
    }

    /// What hardware would tolerate or hang on.
    pub fn complaints(&self) -> Vec<String> {
        type Text = unsafe extern "C" fn(u64, *mut c_char, usize) -> usize;
        let read = self.get::<Text>("mcc_fake_complaint");
        (0..self.number("mcc_fake_complaints"))
            .map(|i| {
                let mut text = vec![0; 512];
                // SAFETY: the buffer is that long.
                unsafe { read(i, text.as_mut_ptr(), text.len()) };
                // SAFETY: ended by the call above.
                unsafe { CStr::from_ptr(text.as_ptr()) }
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    fn number(&self, name: &str) -> u64 {
        // SAFETY: takes nothing.
        unsafe { self.get::<unsafe extern "C" fn() -> u64>(name)() }
    }
}
