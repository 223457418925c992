//! The tree checks itself: layers, banned calls, sizes, dead files, generated code in step.
//!
//! Each test reads the sources and lists everything that breaks its rule, with file and line and
//! what to do instead. The reasons stand with the rules in `ARCHITECTURE.md`.

#[path = "tidy/scanner_test.rs"]
mod scanner_test;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{Source, declared_modules, functions, paths, root, sources, words};

const FILE_LINES: usize = 500;
const TEST_FILE_LINES: usize = 700;
const FUNCTION_LINES: usize = 70;
const COLUMNS: usize = 100;

/// The script that shows for each known-bad build the test that catches it.
const SEEDED_BUGS: &str = "scripts/seeded-bugs.sh";

/// Parts of the engine, which never import one another.
const PARTS: [&str; 6] = ["log", "wheel", "runs", "dedup", "delivery", "replica"];

/// Who may import whom, beside itself. A layer that is not named here is at the top: it may import
/// anything below, and nothing below may import it.
const LAYERS: [(&str, &[&str]); 10] = [
    ("base", &[]),
    ("wire", &["base"]),
    ("engine", &["base", "part"]),
    ("shard", &["base", "wire", "engine", "part"]),
    ("control", &["base", "wire", "engine", "part", "shard"]),
    ("node", &["base", "wire", "engine", "part", "shard", "control"]),
    ("client", &["base", "wire"]),
    // Of the program alone: the memory that all layers share.
    ("allocator", &[]),
    ("cli", &["base", "wire", "engine", "part", "shard", "control", "node", "client"]),
    ("part", &["base"]),
];

/// Which crates are named where: all else must not know that they are there. Prefixes of paths.
const CRATES: [(&str, &[&str]); 4] = [
    ("glommio", &["src/shard/"]),
    (
        "tokio",
        &["src/control/", "src/client/", "src/cli/", "src/node", "src/main.rs", "bench/", "tests/"],
    ),
    ("tonic", &["src/control/", "src/wire/codec.rs", "src/wire/generated/", "bench/", "tests/"]),
    ("axum", &["src/control/", "tests/"]),
];

/// What the engine never does: it has no clock, thread, file, lock or chance of its own.
const NOT_IN_ENGINE: [(&str, &str); 20] = [
    ("std::time", "time is an argument (base::time::Now)"),
    ("std::thread", "effects are for the driver to run"),
    ("std::fs", "reads and writes are effects"),
    ("std::net", "the engine has no sockets"),
    ("std::env", "configuration is an argument"),
    ("std::process", "a failed write is the driver's to end the process for"),
    ("std::io", "reads and writes are effects"),
    ("Instant", "time is an argument (base::time::Now)"),
    ("SystemTime", "time is an argument (base::time::Now)"),
    ("Mutex", "one shard, one thread: no locks"),
    ("RwLock", "one shard, one thread: no locks"),
    ("RefCell", "take &mut"),
    ("Cell", "take &mut"),
    ("async", "what takes time is an effect, its end an input"),
    ("await", "what takes time is an effect, its end an input"),
    ("rand", "chance is seeded and passed in"),
    ("println", "say it in stats or in an effect"),
    ("eprintln", "say it in stats or in an effect"),
    ("RandomState::new", "iteration order must be the same in every run: BTreeMap, or fixed seeds"),
    ("Now::read", "only drivers read clocks"),
];

/// Generated code: its folder, the folder of its schemas, and their ending.
const GENERATED: [(&str, &str, &str); 2] =
    [("src/wire/generated", "proto", "proto"), ("src/engine/log/generated", "schemas", "fbs")];

/// Fails with everything that was found.
fn expect_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}\n", found.join("\n  "));
}

/// The layer of a module path below the crate: `part` for a part of the engine.
fn layer<'a>(first: &'a str, second: Option<&str>) -> &'a str {
    let part = first == "engine" && second.is_some_and(|second| PARTS.contains(&second));
    if part { "part" } else { first }
}

/// Every file that a build reaches, with the module path it has there.
fn modules(root: &Path, files: &[Source]) -> BTreeMap<String, Vec<String>> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let mut reached = BTreeMap::new();
    let mut open: Vec<(String, Vec<String>)> =
        build_roots(root).into_iter().map(|path| (path, Vec::new())).collect();
    while let Some((path, module)) = open.pop() {
        let Some(file) = find(&path).filter(|_| !reached.contains_key(&path)) else { continue };
        for declared in declared_modules(file) {
            open.push((declared.path, [module.as_slice(), &declared.names].concat()));
        }
        reached.insert(path, module);
    }
    reached
}

/// What a path named in `from` means from the top of the crate.
fn resolve(from: &[String], named: &source::Named) -> Vec<String> {
    let supers = named.segments.iter().take_while(|segment| *segment == "super").count();
    let rest = named.segments[supers..].iter().filter(|segment| *segment != "crate").cloned();
    if supers == 0 {
        return rest.collect();
    }
    // The first ones leave inline modules, the rest the file's own.
    let up = supers.saturating_sub(named.nested).min(from.len());
    from[..from.len() - up].iter().cloned().chain(rest).collect()
}

#[test]
fn layers_import_only_what_lies_below() {
    let root = root();
    let files = sources(&root);
    let modules = modules(&root, &files);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        let Some(module) = modules.get(&file.path) else { continue };
        let Some(first) = module.first() else { continue };
        let own = layer(first, module.get(1).map(String::as_str));
        let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == own) else {
            found.push(format!("{}: a layer that tests/tidy.rs does not know", file.path));
            continue;
        };
        for named in paths(&file.code, &["crate", "super"]) {
            let target = resolve(module, &named);
            let Some(first) = target.first() else { continue };
            let to = layer(first, target.get(1).map(String::as_str));
            let same = to == own && (own != "part" || target[1] == module[1]);
            if !same && !below.contains(&to) {
                let path = target.join("::");
                found.push(format!("{}:{}: {own} imports {path}", file.path, named.line));
            }
        }
    }
    expect_none(
        "lower layers never import higher ones, nor parts of the engine one another",
        &found,
    );
}

#[test]
fn crates_stay_where_they_belong() {
    let mut found = Vec::new();
    for file in sources(&root()).iter().filter(|file| !file.path.starts_with("tools/")) {
        for (name, places) in CRATES {
            if places.iter().any(|place| file.path.starts_with(place)) {
                continue;
            }
            for (number, line) in file.code_lines().filter(|(_, l)| words(l).any(|w| w == name)) {
                // Wakers of tokio's channels cross runtimes: they are the gate's two ends.
                let gate = file.path.starts_with("src/shard/gate") && line.contains("tokio::sync");
                if !gate {
                    found.push(format!("{}:{number}: {name}", file.path));
                }
            }
        }
    }
    expect_none("glommio is the shard's, tokio the control plane's", &found);
}

#[test]
fn the_engine_is_pure() {
    let mut found = Vec::new();
    for file in sources(&root()).iter().filter(|file| file.path.starts_with("src/engine/")) {
        if file.is_generated() {
            continue;
        }
        for named in paths(&file.code, &["std"]) {
            let path = named.segments.join("::");
            for (banned, instead) in NOT_IN_ENGINE {
                if path == banned || path.starts_with(&format!("{banned}::")) {
                    found.push(format!("{}:{}: {path}: {instead}", file.path, named.line));
                }
            }
        }
        for (number, line) in file.code_lines() {
            for (banned, instead) in NOT_IN_ENGINE {
                let plain = !banned.contains("::") && words(line).any(|word| word == banned);
                if plain
                    || (!banned.starts_with("std")
                        && banned.contains("::")
                        && line.contains(banned))
                {
                    found.push(format!("{}:{number}: {banned}: {instead}", file.path));
                }
            }
            if randomly_seeded(line) {
                found.push(format!("{}:{number}: a map of random order", file.path));
            }
        }
    }
    expect_none("the engine is a function of (state, now, input)", &found);
}

/// Whether a line makes or names one of std's maps with its random seed.
fn randomly_seeded(line: &str) -> bool {
    [("HashMap", 2), ("HashSet", 1)].iter().any(|(map, seeded)| {
        line.match_indices(map).any(|(at, _)| {
            let rest = &line[at + map.len()..];
            let rest = rest.strip_prefix("::").unwrap_or(rest);
            let made =
                ["new(", "with_capacity(", "from("].iter().any(|call| rest.starts_with(call));
            made || rest.strip_prefix('<').is_some_and(|types| parameters(types) <= *seeded)
        })
    })
}

/// Type parameters up to the closing bracket; a list that goes on in the next line counts as long.
fn parameters(types: &str) -> usize {
    let (mut depth, mut commas) = (0, 0);
    for c in types.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if depth == 0 => return commas + 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => commas += 1,
            _ => {}
        }
    }
    usize::MAX
}

#[test]
fn nothing_is_left_unfinished() {
    // In two halves, or this file would find itself.
    let calls = [concat!("to", "do!"), concat!("unimplem", "ented!"), concat!("db", "g!")];
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let ignored = concat!("#[ign", "ore");
    let mut found = Vec::new();
    for file in sources(&root()).iter().filter(|file| !file.is_generated()) {
        for ((number, code), text) in file.code_lines().zip(file.text.lines()) {
            let call = calls.iter().any(|call| code.contains(call));
            let note = notes.iter().any(|note| words(text).any(|word| word == *note));
            if call || note || code.contains(ignored) {
                found.push(format!("{}:{number}: {}", file.path, text.trim()));
            }
        }
    }
    expect_none("finish it, or leave it out and say so where it is decided", &found);
}

#[test]
fn tests_wait_for_what_they_want() {
    let mut found = Vec::new();
    for file in sources(&root()).iter().filter(|file| file.is_test()) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (number, line) in file.code_lines() {
            let near = &lines[number.saturating_sub(4)..number];
            let polls = near.iter().any(|line| line.contains("//") && line.contains("poll"));
            if line.contains("sleep(") && !line.contains("fn sleep(") && !polls {
                found.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    expect_none("sleep only between polls of a condition, and say `poll` in the comment", &found);
}

#[test]
fn files_and_functions_are_small() {
    let mut found = Vec::new();
    for file in sources(&root()).iter().filter(|file| !file.is_generated()) {
        let (lines, most) =
            (file.text.lines().count(), if file.is_test() { TEST_FILE_LINES } else { FILE_LINES });
        if lines > most {
            found.push(format!("{}: {lines} lines, at most {most}", file.path));
        }
        for (name, line, length) in functions(&file.code) {
            if length > FUNCTION_LINES {
                found.push(format!("{}:{line}: {name} has {length} lines", file.path));
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            if line.chars().count() > COLUMNS {
                found.push(format!("{}:{}: over {COLUMNS} columns", file.path, number + 1));
            }
        }
    }
    expect_none("divide it by what it is about", &found);
}

#[test]
fn files_say_what_they_are_and_have_a_name_of_the_domain() {
    let mut found = Vec::new();
    for file in sources(&root()) {
        if !file.is_generated() && !file.text.starts_with("//! ") {
            found.push(format!("{}: does not open with //!", file.path));
        }
        let names = file.path.trim_end_matches(".rs").split(['/', '_']);
        for name in names {
            if matches!(name, "util" | "utils" | "common" | "helper" | "helpers" | "misc") {
                found.push(format!("{}: name it after what it holds", file.path));
            }
        }
    }
    expect_none("a file opens with what it is, promises and needs", &found);
}

#[test]
fn every_file_is_part_of_a_build() {
    let root = root();
    let files = sources(&root);
    let reached = modules(&root, &files);
    let dead = files.iter().filter(|file| !reached.contains_key(&file.path));
    let dead: Vec<String> = dead.map(|file| file.path.clone()).collect();
    expect_none("no mod line and no target of Cargo.toml leads there", &dead);
}

/// The files that cargo starts from: by convention, and by `path` and `[[bench]]` in manifests.
fn build_roots(root: &Path) -> Vec<String> {
    let mut roots: Vec<String> = vec!["src/lib.rs".into(), "src/main.rs".into(), "build.rs".into()];
    let manifests = ["", "bench/", "tests/fuzz/", "tools/flatcgen/", "tools/protogen/"];
    for folder in manifests {
        let Ok(manifest) = fs::read_to_string(root.join(format!("{folder}Cargo.toml"))) else {
            continue;
        };
        roots.push(format!("{folder}src/main.rs"));
        let mut kind = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                kind = line;
            }
            let value = line.split('"').nth(1).unwrap_or_default();
            if line.starts_with("path = ") {
                roots.push(format!("{folder}{value}"));
            } else if line.starts_with("name = ") && kind == "[[bench]]" {
                roots.push(format!("{folder}benches/{value}.rs"));
            }
        }
    }
    roots
}

#[test]
fn known_bad_builds_are_listed_made_and_run() {
    let root = root();
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("readable");
    let bugs = |text: &str| -> BTreeSet<String> {
        let is_bug = |word: &&str| word.len() > 4 && word.starts_with("bug_");
        words(text).filter(is_bug).map(str::to_owned).collect()
    };
    // The first word of a line: comments may speak of any.
    let lines = |text: &str, mark: &str| -> BTreeSet<String> {
        let starts = text.lines().filter_map(|line| line.trim_start().strip_prefix(mark));
        starts.filter_map(|rest| bugs(words(rest).next().unwrap_or_default()).pop_first()).collect()
    };
    let listed = lines(&read("build.rs"), "(\"");
    assert!(!listed.is_empty(), "build.rs lists them, one a line");
    let sources = sources(&root);
    let places = sources.iter().filter(|file| file.path.starts_with("src/"));
    let made: BTreeSet<String> = places.flat_map(|file| bugs(&file.code)).collect();
    let run = lines(&read(SEEDED_BUGS), "");
    for (what, have) in [("src", made), (SEEDED_BUGS, run)] {
        let differ: Vec<String> = listed.symmetric_difference(&have).cloned().collect();
        expect_none(&format!("in build.rs and not in {what}, or the other way round"), &differ);
    }
    let told = bugs(&read("ARCHITECTURE.md"));
    let unknown: Vec<String> = told.difference(&listed).cloned().collect();
    expect_none("told in ARCHITECTURE.md and not in build.rs", &unknown);
}

#[test]
fn nothing_else_asks_for_a_known_bad_build() {
    let root = root();
    let mut found = Vec::new();
    for folder in ["", "scripts", ".ci", ".cargo", ".github/workflows"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for path in entries.map(|entry| entry.expect("readable").path()).filter(|p| p.is_file()) {
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            let text = fs::read(&path).expect("readable");
            let asks = String::from_utf8_lossy(&text).contains("CHRONOSDB_BUG");
            if asks && ![SEEDED_BUGS, "build.rs", "ARCHITECTURE.md"].contains(&&*name) {
                found.push(name);
            }
        }
    }
    expect_none("CHRONOSDB_BUG is for scripts/seeded-bugs.sh alone", &found);
}

#[test]
fn generated_code_is_in_step_with_its_schemas() {
    let root = root();
    let mut found = Vec::new();
    for (code, schemas, ending) in GENERATED {
        let Ok(entries) = fs::read_dir(root.join(schemas)) else { continue };
        let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == ending));
        files.sort();
        if files.is_empty() {
            continue;
        }
        let text: Vec<u8> =
            files.iter().flat_map(|path| fs::read(path).expect("readable")).collect();
        let expected = format!("{:08x}", crc32fast::hash(&text));
        let stamp = format!("{code}/schema.crc32");
        match fs::read_to_string(root.join(&stamp)) {
            Ok(made_from) if made_from.trim() == expected => {}
            Ok(_) => found.push(format!("{code} was not made from what is in {schemas}/ now")),
            Err(_) => found.push(format!("{stamp} is missing; it holds {expected}")),
        }
    }
    expect_none("run scripts/gen.sh", &found);
}

#[test]
fn every_golden_file_is_described_and_read() {
    let root = root();
    let format = fs::read_to_string(root.join("schemas/FORMAT.md")).expect("it is there");
    let all = sources(&root);
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("tests/golden")).expect("it is there") {
        let name = entry.expect("readable").file_name().into_string().expect("text");
        if !format.contains(&format!("`{name}`")) {
            found.push(format!("{name} is not in schemas/FORMAT.md"));
        }
        if !all.iter().any(|file| file.text.contains(&format!("tests/golden/{name}"))) {
            found.push(format!("{name} is read by no test"));
        }
    }
    expect_none("what a format once was is read for ever", &found);
}
