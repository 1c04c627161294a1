//! Texts, read as kubectl reads them.

use super::*;

fn one(text: &str) -> Tree {
    let documents = documents(text.as_bytes()).unwrap();
    assert_eq!(documents.len(), 1, "{text:?}");
    documents[0].tree.clone().unwrap().unwrap()
}

#[track_caller]
fn check(scalar: &str, expect: Value) {
    let tree = one(&format!("a: {scalar}\n"));
    assert_eq!(tree.field("a").unwrap().value, expect, "{scalar}");
}

#[test]
fn scalars_as_yaml_1_1() {
    for yes in ["true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"] {
        check(yes, Value::Bool(true));
    }
    for no in ["false", "no", "NO", "off", "OFF", "n", "N"] {
        check(no, Value::Bool(false));
    }
    for null in ["", "~", "null", "Null", "NULL"] {
        check(null, Value::Null);
    }
    for (text, n) in [("8080", 8080), ("-1", -1), ("0x1F", 31), ("010", 8), ("0o10", 8), ("0b11", 3), ("1_000", 1000)] {
        check(text, Value::Int(n));
    }
    check("1.5", Value::Float(1.5));
    check("1e3", Value::Float(1000.0));
    check(".inf", Value::Float(f64::INFINITY));
    for text in
        ["inf", "nan", "infinity", "1.2.3", "10.0.0.1", "yess", "v1", "2024-01-01T00:00:00Z", "12:30", "0x", "1a"]
    {
        check(text, Value::Text(text.into()));
    }
    for text in ["\"yes\"", "'yes'", "!!str yes", "|\n  yes"] {
        assert_eq!(one(&format!("a: {text}")).field("a").unwrap().text().unwrap().trim(), "yes", "{text}");
    }
}

#[test]
fn keys_are_text() {
    let tree = one("9090: a\nyes: b\n1.5: c\n'7': d\nnull: e\n");
    for (key, value) in [("9090", "a"), ("true", "b"), ("1.5", "c"), ("7", "d"), ("null", "e")] {
        assert_eq!(tree.field(key).and_then(Tree::text), Some(value), "{key}");
    }
    assert!(documents(b"? [a]\n: b\n").unwrap()[0].tree.is_err());
}

#[test]
fn lines_are_those_of_the_file() {
    let text = "# one\n---\na: 1\n---\n# two\nb:\n  - c: 1\n    d:\n      e: [f,\n        g]\n";
    let documents = documents(text.as_bytes()).unwrap();
    assert_eq!(documents.iter().map(|d| (d.number, d.line)).collect::<Vec<_>>(), [(1, 3), (2, 6)]);
    let tree = documents[1].tree.clone().unwrap().unwrap();
    let path = |segments: &[&str]| -> Path {
        segments
            .iter()
            .map(|s| s.parse().map_or_else(|_| crate::Segment::Field((*s).into()), crate::Segment::Index))
            .collect()
    };
    use crate::Path;
    assert_eq!(tree.line_of(&path(&["b"])), 6);
    assert_eq!(tree.line_of(&path(&["b", "0", "c"])), 7);
    assert_eq!(tree.line_of(&path(&["b", "0", "d", "e", "1"])), 10);
    assert_eq!(tree.line_of(&path(&["b", "0", "x", "y"])), 7, "the nearest thing around it");
}

#[test]
fn duplicates_are_found_and_named() {
    let tree = one("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\nb: 5\n");
    let found: Vec<_> = tree.duplicates().into_iter().map(|d| (d.path.to_string(), d.line, d.first_line)).collect();
    assert_eq!(found, [("a".into(), 6, 1), ("b".into(), 7, 2), ("b.c".into(), 5, 3)] as [(String, u32, u32); 3]);
    assert_eq!(one("1: a\n0x1: b\n").duplicates().len(), 1, "keys are compared as JSON has them");
}

#[test]
fn anchors_and_merge_keys() {
    let tree = one("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\nc: *x\n");
    assert_eq!(tree.field("b").unwrap().field("k").unwrap().value, Value::Int(3));
    assert_eq!(tree.field("b").unwrap().field("l").unwrap().value, Value::Int(2));
    assert_eq!(tree.field("c").unwrap().field("l").unwrap().value, Value::Int(2));
    assert_eq!(tree.duplicates(), []);
}

#[test]
fn a_broken_document_loses_itself_only() {
    let text = "a: 1\n---\nb: [1\n---\nc: \"x\n---\nd: {\n---\ne:\n\tf: 1\n---\nf: *none\n---\ng: 1\n";
    let documents = documents(text.as_bytes()).unwrap();
    let good: Vec<_> = documents.iter().map(|d| d.tree.is_ok()).collect();
    assert_eq!(good, [true, false, false, false, false, false, true]);
    for d in &documents {
        if let Err(e) = &d.tree {
            let line = e.line.unwrap();
            assert!(line >= d.line && line <= d.line + 3, "document {} in line {}: {e:?}", d.number, d.line);
        }
    }
}

#[test]
fn bombs_are_refused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    let deep = |n: usize| format!("a: {}{}", "[".repeat(n), "]".repeat(n));
    for (text, good) in [
        (laughs, false),
        (deep(MAX_DEPTH - 2), true),
        (deep(MAX_DEPTH + 2), false),
        (deep(1_000_000), false),
        ((0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect(), false),
    ] {
        assert_eq!(documents(text.as_bytes()).unwrap()[0].tree.is_ok(), good, "{:.40}", text);
    }
    assert!(matches!(documents(&[b'#'; (16 << 20) + 1]), Err(Fault::FileTooLarge { .. })));
    assert!(matches!(documents("---\n".repeat(10_001).as_bytes()), Err(Fault::TooManyDocuments { .. })));
    assert!(matches!(documents(b"a: \xff"), Err(Fault::NotUtf8 { at: 3 })));
}

#[test]
fn json_is_read_too() {
    let tree = one("{\n\t\"a\": \"x\\/y \\u00e9 \\ud83d\\ude00\",\n\t\"b\": [1, true, null]\n}\n");
    assert_eq!(tree.field("a").and_then(Tree::text), Some("x/y é 😀"));
    assert_eq!(tree.line_of(&crate::path::At::ROOT.field("b").path()), 3);
    assert_eq!(one("\u{feff}a: 1").field("a").unwrap().value, Value::Int(1));
}
