//! What the environment adds to a configuration: `${NAME}` within texts, and `HEADWATER__…` in
//! place of any setting.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::problem::Findings;
use super::tree::{Entry, Node, Table, Value};

/// What the names of variables that stand for settings begin with.
pub const OVERRIDE_PREFIX: &str = "HEADWATER__";

/// The environment variables that a configuration sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. Those whose names are not Unicode cannot be meant.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                let value = value.to_string_lossy().into_owned();
                Some((name.into_string().ok()?, value))
            })
            .collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let pairs = variables.into_iter();
        Self(pairs.map(|(n, v)| (n.into(), v.into())).collect())
    }
}

/// Puts the variables in place of `${NAME}` and `${NAME:default}` in every text of the tree.
pub(super) fn substitute(node: &mut Node, environment: &Environment, found: &mut Findings<'_>) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => match expand(text, environment) {
            // A number or a boolean may come from a variable too.
            Ok(expanded) => node.value = Value::Loose(expanded),
            Err((message, hint)) => found.add(&node.origin, message, Some(hint)),
        },
        Value::List(list) => {
            for item in list {
                substitute(item, environment, found);
            }
        }
        Value::Table(table) => {
            for entry in &mut table.entries {
                substitute(&mut entry.node, environment, found);
            }
        }
        _ => {}
    }
}

/// `text` with its variables replaced, or what is wrong with it and what to do.
fn expand(text: &str, environment: &Environment) -> Result<String, (String, String)> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            let message = "`${` has no `}` after it".to_owned();
            return Err((message, "write $${ where ${ itself is meant".to_owned()));
        };
        let (name, default) = match inside.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            let message = format!("`{name}` is not the name of an environment variable");
            let hint = "write ${NAME}, ${NAME:default}, or $${ where ${ itself is meant";
            return Err((message, hint.to_owned()));
        }
        let Some(value) = environment.get(name).or(default) else {
            let message = format!("the environment variable {name} is not set");
            return Err((message, format!("set it, or write ${{{name}:default}}")));
        };
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Puts the variables `HEADWATER__…` in place of the settings that they name.
pub(super) fn override_all(tree: &mut Node, environment: &Environment, found: &mut Findings<'_>) {
    let mut overrides: Vec<(Vec<String>, &String, &String)> = environment
        .0
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix(OVERRIDE_PREFIX)?;
            let steps = path.split("__").map(str::to_lowercase).collect();
            Some((steps, name, value))
        })
        .collect();
    // A whole table before its parts, and the ninth site before the tenth.
    overrides.sort_by(|(a, ..), (b, ..)| compare(a, b));
    for (steps, name, value) in overrides {
        let node = Node::from_outside(value, name);
        let origin = node.origin.clone();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        if let Err((message, hint)) = set(tree, &steps, node) {
            found.add(&origin, message, Some(hint));
        }
    }
}

fn compare(a: &[String], b: &[String]) -> Ordering {
    let step = |a: &String, b: &String| match (a.parse::<usize>(), b.parse::<usize>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    };
    let differing = a.iter().zip(b).map(|(a, b)| step(a, b)).find(|o| o.is_ne());
    differing.unwrap_or(a.len().cmp(&b.len()))
}

/// Puts `new` at the end of `steps`, making the tables and lists on the way that are missing. An
/// item can be put behind the last one of a list, and no further.
pub(super) fn set(node: &mut Node, steps: &[&str], new: Node) -> Result<(), (String, String)> {
    let Some((step, below)) = steps.split_first() else {
        *node = new;
        return Ok(());
    };
    let blank = || Node {
        value: match below.first() {
            Some(next) if next.parse::<usize>().is_ok() => Value::List(Vec::new()),
            _ => Value::Table(Table::default()),
        },
        origin: new.origin.clone(),
    };
    match &mut node.value {
        Value::Table(table) => {
            let place = table.place_of(step, || Entry {
                key: (*step).to_owned(),
                key_origin: new.origin.clone(),
                node: blank(),
            });
            set(&mut table.entries[place].node, below, new)
        }
        Value::List(list) => {
            let count = list.len();
            let index = step.parse().map_err(|_| not_an_index(step))?;
            if index == count {
                list.push(blank());
            }
            let item = list.get_mut(index).ok_or_else(|| too_far(index, count))?;
            set(item, below, new)
        }
        _ => Err((
            format!("there is no setting `{step}` here"),
            "the part of the name before it is a setting itself".to_owned(),
        )),
    }
}

fn not_an_index(step: &str) -> (String, String) {
    (
        format!("`{step}` is not a number, but the part of the name before it is a list"),
        "the first one has the number 0, as in HEADWATER__SITE__0__LISTEN".to_owned(),
    )
}

fn too_far(index: usize, count: usize) -> (String, String) {
    (
        format!("number {index} of the list does not exist: there are {count}"),
        format!("the first one has the number 0; {count} would add one"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment {
        Environment::from_iter([("HOME", "/root"), ("EMPTY", ""), ("_A1", "x")])
    }

    #[test]
    fn variables_are_expanded() {
        for (text, expanded) in [
            ("${HOME}/data", "/root/data"),
            ("a${EMPTY}b", "ab"),
            ("${NOT_SET:fallback}", "fallback"),
            ("${NOT_SET:}", ""),
            ("${HOME:fallback}", "/root"),
            ("${NOT_SET:127.0.0.1:80}", "127.0.0.1:80"),
            ("${_A1}${HOME}", "x/root"),
            ("$${HOME}", "${HOME}"),
            ("$${HOME} ${HOME}", "${HOME} /root"),
            ("$HOME $ {", "$HOME $ {"),
        ] {
            assert_eq!(expand(text, &environment()).unwrap(), expanded, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_refused() {
        for (text, word) in [
            ("${NOT_SET}", "NOT_SET is not set"),
            ("${HOME", "no `}`"),
            ("${}", "not the name"),
            ("${1A}", "not the name"),
            ("${A B}", "not the name"),
        ] {
            let (message, _) = expand(text, &environment()).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn items_are_ordered_by_number() {
        let steps = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            compare(&steps("site.9.x"), &steps("site.10.a")),
            Ordering::Less
        );
        assert_eq!(
            compare(&steps("site.0"), &steps("site.0.a")),
            Ordering::Less
        );
        assert_eq!(compare(&steps("log"), &steps("site")), Ordering::Less);
    }

    proptest! {
        #[test]
        fn text_without_variables_stays(text in "[^$]*") {
            prop_assert_eq!(expand(&text, &environment()), Ok(text));
        }

        #[test]
        fn no_text_panics(text in "[${}:A-B]*") {
            let _ = expand(&text, &environment());
        }
    }
}
