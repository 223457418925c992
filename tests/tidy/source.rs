//! The tree's Rust files, read once, with what the rules look at: code without comments and
//! strings, the paths it names, the modules it declares, the lengths of its functions.
//!
//! A scanner, not a parser: it knows comments, literals, braces, `mod`, `fn` and the shape of
//! paths, which is enough for rules that want to be simple to state.

use std::fs;
use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// With comments and the insides of literals blanked out; lines and columns stay.
    pub code: String,
}

impl Source {
    /// Made by a tool: exempt from rules of style.
    pub fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
    }

    /// All of it is test code.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("_test.rs")
    }

    /// The lines of `code` with their numbers, from 1.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(position, line)| (position + 1, line))
    }

    /// Reads one file of the repository.
    pub fn read(root: &Path, path: &str) -> Self {
        let text = fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let code = blank(&text);
        Self { path: path.to_owned(), text, code }
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test says where it is"))
}

/// Every Rust file of the project, sorted by path.
pub fn sources(root: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "bench", "tools"] {
        collect(&root.join(folder), &mut paths);
    }
    paths.push(root.join("build.rs"));
    let relative = |path: &PathBuf| {
        let path = path.strip_prefix(root).expect("it was found below the root");
        path.to_str().expect("the tree's names are text").to_owned()
    };
    let mut paths: Vec<String> = paths.iter().map(relative).collect();
    paths.sort();
    paths.iter().map(|path| Source::read(root, path)).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the tree can be read").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// `text` with comments, strings and characters blanked out, their quotes left.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for (position, &c) in chars[at..end].iter().enumerate() {
            let edge = position == 0 || at + position + 1 == end;
            let quote = edge && matches!(c, '"' | '\'');
            out.push(if c == '\n' || quote { c } else { ' ' });
        }
        at = end;
    }
    out
}

/// Behind the comment or literal that begins at `at`; `at` itself if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let starts = |what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let within_word = at > 0 && is_word(chars[at - 1]);
    if starts("//") {
        return (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len());
    }
    if starts("/*") {
        return block_comment_end(chars, at);
    }
    if starts("r\"") || starts("r#\"") || starts("r##\"") {
        if !within_word || chars[at - 1] == 'b' {
            return raw_string_end(chars, at + 1);
        }
    } else if starts("\"") {
        return quoted_end(chars, at, '"');
    } else if starts("'") && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\''))
    {
        return quoted_end(chars, at, '\'');
    }
    at
}

fn quoted_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], hashes_at: usize) -> usize {
    let hashes = chars[hashes_at..].iter().take_while(|&&c| c == '#').count();
    let closes = |i: usize| {
        chars[i] == '"'
            && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    let first = hashes_at + hashes + 1;
    (first..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes)
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of a line of code.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// A path that code names, from `crate`, `super`, `std` or another given root.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub line: usize,
    /// How many inline modules it stands in.
    pub nested: usize,
    pub segments: Vec<String>,
}

/// Every path in `code` that begins with one of `roots`, groups of a `use` spread out.
pub fn paths(code: &str, roots: &[&str]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut braces = Vec::new();
    let mut after_mod = 0;
    for (word, rest) in tokens(code) {
        let before = code[..code.len() - rest.len() - word.len()].trim_end();
        match word {
            "\n" => line += 1,
            "{" => braces.push(after_mod == 2),
            "}" => {
                braces.pop();
            }
            _ if roots.contains(&word) && !before.ends_with("::") => {
                let nested = braces.iter().filter(|&&inline| inline).count();
                let mut prefix = vec![word.to_owned()];
                spread(rest, &mut prefix, &mut |segments| {
                    found.push(Named { line, nested, segments: segments.to_vec() });
                });
            }
            _ => {}
        }
        // `mod name {` opens an inline module: one word behind `mod`.
        after_mod = match word {
            "mod" => 1,
            "\n" => after_mod,
            _ if after_mod == 1 => 2,
            _ => 0,
        };
    }
    found
}

/// Words, line ends and braces, each with the code behind it.
fn tokens(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = code;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c != '\n' && c != '{' && c != '}' && !is_word(c));
        let first = rest.chars().next()?;
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let token = &rest[..len];
        rest = &rest[len..];
        Some((token, rest))
    })
}

/// Follows `::a::{b, c::d}` behind `prefix`, tells each whole path, and returns what is behind it.
fn spread<'a>(
    rest: &'a str,
    prefix: &mut Vec<String>,
    tell: &mut impl FnMut(&[String]),
) -> &'a str {
    let Some(behind) = rest.trim_start().strip_prefix("::") else {
        tell(prefix);
        return rest;
    };
    let behind = behind.trim_start();
    if let Some(mut group) = behind.strip_prefix('{') {
        loop {
            group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if group.is_empty() || group.starts_with('}') {
                return group.strip_prefix('}').unwrap_or(group);
            }
            let len = group.find(|c| !is_word(c)).unwrap_or(group.len()).max(1);
            prefix.push(group[..len].to_owned());
            group = spread(&group[len..], prefix, tell);
            prefix.pop();
            let skip = group.find([',', '}']).unwrap_or(group.len());
            group = &group[skip..];
        }
    }
    let len = behind.find(|c| !is_word(c)).unwrap_or(behind.len());
    if len == 0 {
        tell(prefix);
        return behind;
    }
    prefix.push(behind[..len].to_owned());
    let rest = spread(&behind[len..], prefix, tell);
    prefix.pop();
    rest
}

/// Name, first line and length of every function with a body.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let mut words = words(line).skip_while(|word| *word != "fn");
        let (Some(_), Some(name)) = (words.next(), words.next()) else { continue };
        let column = line.find("fn ").unwrap_or(0);
        if let Some(end) = body_end(&lines, start, column) {
            found.push((name.to_owned(), start + 1, end - start + 1));
        }
    }
    found
}

/// The line on which the body closes; `None` for a declaration.
fn body_end(lines: &[&str], start: usize, column: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (number, line) in lines.iter().enumerate().skip(start) {
        for c in line.chars().skip(if number == start { column } else { 0 }) {
            match c {
                '(' | '[' => others += 1,
                ')' | ']' => others -= 1,
                ';' if braces == 0 && others == 0 => return None,
                '{' => braces += 1,
                '}' => braces -= 1,
                _ => continue,
            }
            if c == '}' && braces == 0 {
                return Some(number);
            }
        }
    }
    None
}

/// A file that a `mod` line leads to, if it exists, and its names below the declaring module.
#[derive(Debug, PartialEq, Eq)]
pub struct Declared {
    pub path: String,
    pub names: Vec<String>,
}

/// What the `mod` lines of `file` lead to, those of inline modules included.
pub fn declared_modules(file: &Source) -> Vec<Declared> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let is_root = matches!(name, "mod.rs" | "lib.rs" | "main.rs") || !file.path.starts_with("src/");
    let stem = name.trim_end_matches(".rs");
    let own = if is_root { folder.to_owned() } else { format!("{folder}/{stem}") };
    let (mut inline, mut opened_at, mut depth) = (Vec::<String>::new(), Vec::new(), 0);
    let mut given_path = None;
    let mut modules = Vec::new();
    for (line, raw) in file.code.lines().zip(file.text.lines()) {
        if let Some(rest) = raw.trim().strip_prefix("#[path = \"") {
            given_path = rest.split('"').next().map(|path| format!("{folder}/{path}"));
        }
        let mut words = words(line).skip_while(|word| *word != "mod");
        if let (Some(_), Some(name)) = (words.next(), words.next()) {
            let names = [inline.as_slice(), &[name.to_owned()]].concat();
            if line.trim_end().ends_with(';') {
                let below = format!("{own}/{}", names.join("/"));
                let usual = vec![format!("{below}.rs"), format!("{below}/mod.rs")];
                for path in given_path.take().map_or(usual, |path| vec![path]) {
                    modules.push(Declared { path, names: names.clone() });
                }
            } else if line.trim_end().ends_with('{') {
                inline = names;
                opened_at.push(depth);
            }
        }
        for c in line.chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == '}' && opened_at.last() == Some(&depth) {
                opened_at.pop();
                inline.pop();
            }
        }
    }
    modules
}
