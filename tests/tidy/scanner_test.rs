//! The scanner against small pieces of code: a rule that sees nothing would be kept by everyone.

use crate::source::{Source, blank, declared_modules, functions, paths};

#[test]
fn comments_and_literals_are_blanked() {
    let blanked = |text: &str| blank(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(blanked("a // std::time\nb"), "a b");
    assert_eq!(blanked("a /* x /* y */ z */ b"), "a b");
    assert_eq!(blanked(r#"f("a \" std::fs", 'x', '\'')"#), "f(\" \", ' ', ' ')");
    assert_eq!(blanked("r#\"a \" b\"# c"), "c");
    assert_eq!(blanked("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
    assert_eq!(blank("a\n/* b\n c */\nd").lines().count(), 4);
}

fn named(code: &str) -> Vec<String> {
    let found = paths(code, &["crate", "super", "std"]);
    found.iter().map(|named| named.segments.join("::")).collect()
}

#[test]
fn paths_are_found_and_groups_spread() {
    assert_eq!(named("use crate::base::ids::{Index, Term};")[1], "crate::base::ids::Term");
    assert_eq!(
        named("use crate::{base::{a, b as c}, engine};\nlet x = super::super::log::y(1);"),
        ["crate::base::a", "crate::base::b", "crate::engine", "super::super::log::y"]
    );
    assert_eq!(named("use std::{fs, net::*};"), ["std::fs", "std::net"]);
    assert_eq!(named("pub(crate) fn f() -> my::crate_::X {}"), ["crate"]);
}

#[test]
fn inline_modules_and_lines_are_counted() {
    let found =
        paths("fn f() {}\nmod tests {\n    use super::super::x;\n}\nuse super::y;", &["super"]);
    assert_eq!((found[0].line, found[0].nested), (3, 1));
    assert_eq!((found[1].line, found[1].nested), (5, 0));
}

#[test]
fn functions_are_measured() {
    let code =
        "trait T {\n    fn a(x: [u8; 4]);\n    fn b(\n        x: u8,\n    ) {\n    }\n}\nfn c() {}";
    assert_eq!(functions(code), [("b".into(), 3, 4), ("c".into(), 8, 1)]);
}

#[test]
fn modules_lead_to_files() {
    let text = "mod a;\n#[path = \"x/y.rs\"]\nmod b;\npub mod c {\n    pub mod d;\n}\nmod e;";
    let file = Source { path: "src/p/mod.rs".into(), text: text.into(), code: blank(text) };
    let found = declared_modules(&file);
    for expected in ["src/p/a.rs", "src/p/a/mod.rs", "src/p/x/y.rs", "src/p/c/d.rs", "src/p/e.rs"] {
        assert!(found.iter().any(|module| module.path == expected), "{expected} in {found:?}");
    }
    let d = found.iter().find(|module| module.path.ends_with("/d.rs")).expect("just seen");
    assert_eq!(d.names, ["c", "d"]);
    let file = Source { path: "src/p/q.rs".into(), ..file };
    assert_eq!(declared_modules(&file)[0].path, "src/p/q/a.rs");
}
