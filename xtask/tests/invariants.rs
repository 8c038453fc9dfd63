//! The plan of the house, held by the build.
//!
//! In: `cargo metadata`, the source files and the rooms table of
//! ARCHITECTURE.md. Each test is one invariant of that page. The table is
//! read, not copied: a crate that is not in it, or that uses what its row does
//! not allow, fails here. The invariants that must outlive an edit of the
//! table are spelled out below it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a deployed host, a model author or a bare clone must not need.
const COMPILER_ONLY: [&str; 9] = [
    "melior",
    "mlir-sys",
    "tblgen",
    "inkwell",
    "llvm-sys",
    "egg",
    "highs-sys",
    "mcc-codegen",
    "mcc-passes",
];

#[test]
fn deployed_and_authoring_crates_never_reach_llvm_mlir_egg_or_highs() {
    let workspace = Workspace::load();
    for krate in [
        "mcc-runtime",
        "mcc-sim",
        "mcc-sim-run",
        "mcc-bundle",
        "mcc-ptx",
        "mcc-ir",
        "mcc-dsl",
        "xtask",
    ] {
        let reached = workspace.reachable(krate);
        for banned in COMPILER_ONLY {
            assert!(
                !reached.contains(banned),
                "{krate} reaches {banned}; see invariant 1 of ARCHITECTURE.md"
            );
        }
    }
    // The walk does find what is there.
    assert!(workspace.reachable("mcc").contains("llvm-sys"));
    let passes = workspace.reachable("mcc-passes");
    assert!(passes.contains("egg") && passes.contains("highs-sys"));
}

#[test]
fn base_crates_use_no_other_crate_of_the_workspace() {
    let workspace = Workspace::load();
    let uses = |krate: &str| workspace.direct_members(krate);
    for krate in ["mcc-ir", "mcc-ptx", "mcc-bundle", "xtask"] {
        assert_eq!(uses(krate), BTreeSet::new(), "{krate}");
    }
    assert_eq!(uses("mcc-dsl"), BTreeSet::from(["mcc-ir".to_owned()]));
    assert_eq!(uses("mcc-sim"), BTreeSet::from(["mcc-ptx".to_owned()]));
}

#[test]
fn only_codegen_names_melior_and_inkwell_and_only_passes_name_egg_and_highs() {
    let workspace = Workspace::load();
    for (krate, member) in &workspace.members {
        let llvm = ["melior", "mlir-sys", "inkwell", "llvm-sys"];
        for banned in llvm {
            assert!(
                krate == "mcc-codegen" || !member.declares.contains(banned),
                "{krate} names {banned}; only mcc-codegen may"
            );
        }
        for banned in ["egg", "highs", "highs-sys", "good_lp"] {
            assert!(
                krate == "mcc-passes" || !member.declares.contains(banned),
                "{krate} names {banned}; only mcc-passes may"
            );
        }
    }
}

#[test]
fn inside_passes_only_the_egraph_knows_egg() {
    let passes = root().join("passes/src");
    let egraph = passes.join("egraph");
    for file in rust_files(&passes) {
        if file.starts_with(&egraph) || file == passes.join("egraph.rs") {
            continue;
        }
        let text = read(&file);
        let egg = text.lines().find(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .any(|word| word == "egg")
        });
        assert_eq!(egg, None, "{} knows egg", shown(&file));
    }
}

#[test]
fn the_rooms_table_is_the_workspace() {
    let workspace = Workspace::load();
    let rooms = rooms();
    let in_table: BTreeMap<&str, &str> = rooms
        .iter()
        .filter_map(|room| Some((room.krate.as_deref()?, room.folder.as_str())))
        .collect();
    let in_cargo: BTreeMap<&str, &str> = workspace
        .members
        .iter()
        .map(|(name, member)| (name.as_str(), member.folder.as_str()))
        .collect();
    assert_eq!(
        in_table, in_cargo,
        "left: ARCHITECTURE.md; right: Cargo.toml"
    );
    for room in &rooms {
        assert!(root().join(&room.folder).is_dir(), "no {}/", room.folder);
    }
}

#[test]
fn every_crate_uses_only_what_its_row_allows() {
    let workspace = Workspace::load();
    for room in rooms() {
        let (Some(krate), Some(allowed)) = (room.krate, room.may_use) else {
            continue;
        };
        for used in workspace.direct_members(&krate) {
            assert!(
                allowed.contains(&used),
                "{krate} uses {used}; ARCHITECTURE.md allows {allowed:?}"
            );
        }
    }
}

#[test]
fn every_rust_file_opens_with_a_module_doc() {
    let without: Vec<String> = rust_files(root())
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name != "build.rs"))
        .filter(|file| !read(file).trim_start().starts_with("//!"))
        .map(|file| shown(&file))
        .collect();
    assert_eq!(without, Vec::<String>::new(), "these open without `//!`");
}

/// One row of the rooms table.
struct Room {
    folder: String,
    /// None for a folder that is no crate.
    krate: Option<String>,
    /// Crates of the workspace that it may use; None for everything.
    may_use: Option<BTreeSet<String>>,
}

fn rooms() -> Vec<Room> {
    let page = read(&root().join("ARCHITECTURE.md"));
    let (_, section) = page
        .split_once("\n## Rooms\n")
        .expect("ARCHITECTURE.md has a section `## Rooms`");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rooms: Vec<Room> = section.lines().filter_map(room).collect();
    assert!(rooms.len() > 5, "the rooms table was not understood");
    rooms
}

/// ``| `ir/` | `mcc-ir` | what lives there | – |``
fn room(line: &str) -> Option<Room> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
    let [folder, krate, _, may_use] = cells.as_slice() else {
        return None;
    };
    let folder = folder.trim().strip_prefix('`')?.strip_suffix("/`")?;
    let code = |cell: &str| -> Vec<String> {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect()
    };
    Some(Room {
        folder: folder.to_owned(),
        krate: code(krate).pop(),
        may_use: (may_use.trim() != "everything").then(|| code(may_use).into_iter().collect()),
    })
}

struct Member {
    /// From the root, without a closing slash.
    folder: String,
    /// Every dependency that its manifest names, of any kind.
    declares: BTreeSet<String>,
}

struct Workspace {
    members: BTreeMap<String, Member>,
    /// Package id to name.
    names: BTreeMap<String, String>,
    /// Package id to the ids that it needs to be built and to run.
    edges: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    fn load() -> Self {
        let metadata = metadata();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("a string").to_owned();

        let member_ids: BTreeSet<String> = list(&metadata["workspace_members"])
            .iter()
            .map(text)
            .collect();
        let mut members = BTreeMap::new();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            let (id, name) = (text(&package["id"]), text(&package["name"]));
            if member_ids.contains(&id) {
                let manifest = PathBuf::from(text(&package["manifest_path"]));
                let folder = shown(manifest.parent().expect("a manifest lies in a folder"));
                let declared = list(&package["dependencies"]);
                let declares = declared.iter().map(|d| text(&d["name"])).collect();
                members.insert(name.clone(), Member { folder, declares });
            }
            names.insert(id, name);
        }

        let mut edges = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let deps = list(&node["deps"]);
            let needed = deps.iter().filter(|dep| {
                list(&dep["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"] != "dev")
            });
            let needed = needed.map(|dep| text(&dep["pkg"])).collect();
            edges.insert(text(&node["id"]), needed);
        }
        Self {
            members,
            names,
            edges,
        }
    }

    fn id(&self, krate: &str) -> &str {
        assert!(self.members.contains_key(krate), "no crate {krate}");
        let found = self.names.iter().find(|(_, name)| *name == krate);
        found
            .map(|(id, _)| id.as_str())
            .expect("a member has an id")
    }

    /// Members of the workspace that `krate` uses directly, tests aside.
    fn direct_members(&self, krate: &str) -> BTreeSet<String> {
        let used = self.edges[self.id(krate)].iter().map(|id| &self.names[id]);
        used.filter(|name| self.members.contains_key(*name))
            .cloned()
            .collect()
    }

    /// Every package that `krate` needs, tests aside.
    fn reachable(&self, krate: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut queue = vec![self.id(krate)];
        while let Some(id) = queue.pop() {
            for next in &self.edges[id] {
                if seen.insert(next.as_str()) {
                    queue.push(next);
                }
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let host = host_triple();
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            &host,
        ])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Without it, cargo would fetch the crates of every other platform too.
fn host_triple() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .expect("rustc starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc -vV names its host").to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the root")
}

/// The project's Rust files: build outputs and hidden folders aside.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", shown(dir)));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let skipped = name.starts_with('.') || name == "target" || name.starts_with("target-");
            if !skipped {
                files.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", shown(file)))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
