//! Changes of YAML and JSON as the trees that they are.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_yaml::value::{Tag, TaggedValue};
use serde_yaml::{Mapping, Value};

use super::{changed, extreme, one_in, pick};

/// Texts at which readers go wrong.
const TEXTS: [&str; 20] = [
    "",
    " ",
    "~",
    "null",
    "true",
    "-1",
    "1e999",
    ".nan",
    "0x10",
    "a: b",
    "- a",
    "\u{0}",
    "\u{7f}\u{1b}[2J",
    "\u{feff}",
    "é\u{301}💥",
    "../../../etc/passwd",
    "/dev/zero",
    "$(id);`id`'\"",
    "%s%n",
    "!tag",
];
const FLOATS: [f64; 9] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    -0.0,
    -1.0,
    0.5,
    f64::MIN_POSITIVE,
    f64::MAX,
    1e19,
];
/// Lines that mean something to YAML.
const LINES: [&str; 10] = [
    "---",
    "...",
    "<<: *a",
    "a: &a [*a]",
    "? [a]\n: b",
    "- - - - - - - -",
    "%YAML 9.9",
    "{[{[{[",
    "&a a: *a",
    "!!binary \"\"",
];
/// Deepest nest that is made.
const DEEP: usize = 300;
/// Most copies of an element that are made.
const COPIES: usize = 1000;
/// Longest text that is made.
const LONG_TEXT: usize = 1 << 16;

/// Changes a YAML file.
pub fn yaml(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    if one_in(rng, 4) {
        return text_lines(input, rng);
    }
    let mut tree: Value = serde_yaml::from_slice(input).ok()?;
    change(&mut tree, rng);
    serde_yaml::to_string(&tree).ok().map(String::into_bytes)
}

/// Changes a JSON file.
pub fn json(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    if one_in(rng, 8) {
        return text_lines(input, rng);
    }
    // JSON is YAML too, and one tree is enough.
    let mut tree: Value = serde_json::from_slice(input).ok()?;
    change(&mut tree, rng);
    serde_json::to_vec(&tree).ok()
}

/// Changes one line of a file of JSON lines, or the order of the lines.
pub fn json_lines(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    if one_in(rng, 4) {
        return text_lines(input, rng);
    }
    let mut lines: Vec<Vec<u8>> = input
        .split(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .filter(|line| !line.is_empty())
        .collect();
    let at = (!lines.is_empty()).then(|| rng.random_range(0..lines.len()))?;
    lines[at] = json(&lines[at], rng)?;
    Some([lines.join(&b'\n'), b"\n".to_vec()].concat())
}

/// Doubles, removes, moves, indents or adds a line.
pub fn text_lines(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = input.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let (at, other) = (
        rng.random_range(0..lines.len()),
        rng.random_range(0..lines.len()),
    );
    match rng.random_range(0..5) {
        0 => lines.insert(at, lines[other].clone()),
        1 => drop(lines.remove(at)),
        2 => lines.swap(at, other),
        3 => {
            let spaces = vec![b' '; rng.random_range(1..5)];
            lines[at].splice(0..0, spaces);
        }
        _ => lines.insert(at, pick(rng, &LINES)?.as_bytes().to_vec()),
    }
    Some(lines.join(&b'\n'))
}

/// Changes one node.
pub(super) fn change(tree: &mut Value, rng: &mut ChaCha8Rng) {
    let count = count(tree);
    let source = rng.random_range(0..count);
    let other = node(tree, &mut source.clone()).map(|node| node.clone());
    let mut target = rng.random_range(0..count);
    let Some(node) = node(tree, &mut target) else {
        return;
    };
    if one_in(rng, 6) {
        *node = other.unwrap_or(Value::Null);
        return;
    }
    if one_in(rng, 6) {
        *node = anything(rng, node);
        return;
    }
    match node {
        Value::Null | Value::Bool(_) => *node = anything(rng, &Value::Null),
        Value::Number(number) => {
            *node = match number.as_u64() {
                Some(number) if !one_in(rng, 4) => changed(rng, number).into(),
                _ => a_number(rng),
            };
        }
        Value::String(text) => *text = a_text(rng, text),
        Value::Sequence(items) => change_items(items, rng),
        Value::Mapping(fields) => change_fields(fields, rng),
        Value::Tagged(tagged) => tagged.tag = Tag::new("other"),
    }
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Sequence(items) => items.iter().map(count).sum(),
        Value::Mapping(fields) => fields.iter().map(|(_, value)| count(value)).sum(),
        Value::Tagged(tagged) => count(&tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The node of this index in depth-first order.
fn node<'a>(tree: &'a mut Value, index: &mut usize) -> Option<&'a mut Value> {
    if *index == 0 {
        return Some(tree);
    }
    *index -= 1;
    match tree {
        Value::Sequence(items) => items.iter_mut().find_map(|item| node(item, index)),
        Value::Mapping(fields) => fields.iter_mut().find_map(|(_, value)| node(value, index)),
        Value::Tagged(tagged) => node(&mut tagged.value, index),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn a_number(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..3) {
        0 => extreme(rng).into(),
        1 => (extreme(rng) as i64).wrapping_neg().into(),
        _ => FLOATS[rng.random_range(0..FLOATS.len())].into(),
    }
}

fn a_text(rng: &mut ChaCha8Rng, old: &str) -> String {
    match rng.random_range(0..4) {
        0 => old.repeat(2),
        1 => old.chars().skip(1).collect(),
        2 if one_in(rng, 8) => "a".repeat(rng.random_range(1..LONG_TEXT)),
        _ => pick(rng, &TEXTS).map_or("", |text| text).to_owned(),
    }
}

fn anything(rng: &mut ChaCha8Rng, old: &Value) -> Value {
    match rng.random_range(0..9) {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => Value::Sequence(Vec::new()),
        3 => Value::Mapping(Mapping::new()),
        4 => Value::Sequence(vec![old.clone(); rng.random_range(1..4)]),
        5 => Value::Tagged(Box::new(TaggedValue {
            tag: Tag::new("tag"),
            value: old.clone(),
        })),
        6 if one_in(rng, 4) => {
            let nest = |inner, _| Value::Sequence(vec![inner]);
            (0..rng.random_range(1..DEEP)).fold(Value::Null, nest)
        }
        7 => a_text(rng, "").into(),
        _ => a_number(rng),
    }
}

fn change_items(items: &mut Vec<Value>, rng: &mut ChaCha8Rng) {
    if items.is_empty() {
        items.push(anything(rng, &Value::Null));
        return;
    }
    let at = rng.random_range(0..items.len());
    match rng.random_range(0..4) {
        0 => drop(items.remove(at)),
        1 => items.insert(at, items[at].clone()),
        2 if one_in(rng, 4) => {
            let copies = vec![items[at].clone(); rng.random_range(1..COPIES)];
            // Copies of copies of a list would not end.
            if count(&items[at]) < 8 {
                items.splice(at..at, copies);
            }
        }
        _ => {
            let other = rng.random_range(0..items.len());
            items.swap(at, other);
        }
    }
}

fn change_fields(fields: &mut Mapping, rng: &mut ChaCha8Rng) {
    let keys: Vec<Value> = fields.keys().cloned().collect();
    let Some(key) = pick(rng, &keys).cloned() else {
        fields.insert("a".into(), a_number(rng));
        return;
    };
    match rng.random_range(0..3) {
        0 => drop(fields.remove(&key)),
        1 => {
            let value = fields.remove(&key).unwrap_or(Value::Null);
            let name = a_text(rng, key.as_str().unwrap_or(""));
            fields.insert(name.into(), value);
        }
        _ => {
            let value = anything(rng, &Value::Null);
            fields.insert(a_text(rng, "more").into(), value);
        }
    }
}
