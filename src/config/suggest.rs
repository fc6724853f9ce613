//! "Did you mean …?"

/// The one of `known` that `written` was most likely meant to be, if any is near enough.
pub(super) fn closest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .iter()
        .map(|name| (distance(&written, name), *name))
        .filter(|(distance, name)| *distance <= name.len().max(written.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be put in, taken out, exchanged for another, or swapped with their
/// neighbour to turn one text into the other (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let exchange = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = exchange.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["listen", "hosts", "tls", "route"];
        assert_eq!(closest("lisen", &known), Some("listen"));
        assert_eq!(closest("lsiten", &known), Some("listen"));
        assert_eq!(closest("host", &known), Some("hosts"));
        assert_eq!(closest("ROUTES", &known), Some("route"));
        assert_eq!(closest("tsl", &known), Some("tls"));
    }

    #[test]
    fn what_resembles_nothing_has_no_suggestion() {
        assert_eq!(closest("wavelength", &["listen", "hosts"]), None);
        assert_eq!(closest("", &["listen", "hosts"]), None);
    }

    #[test]
    fn distances_are_counted() {
        for (a, b, letters) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), letters, "{a} {b}");
        }
    }
}
