//! What must never reach a log: credentials, cookies, tokens, signatures.
//!
//! Two lines of defence. [`query`] decides what the access log shows of a request's query: only the
//! protocol's own parameters. [`line()`] goes over every other line before it is written, because
//! libraries log what they like: Pingora's errors name the whole request target, and at the level
//! `trace` all its headers.

use std::borrow::Cow;

use crate::secrets::{Announced, REDACTED, announced};

/// The query parameters whose values are logged: the protocol's, which hold no secret.
const SHOWN_PARAMETERS: [&str; 3] = ["offset", "live", "cursor"];

/// The most bytes of a shown parameter's value. Offsets and cursors are far shorter; a value that
/// is longer is none of ours, and not worth a line of the log.
const SHOWN_VALUE_BYTES: usize = 64;

/// Begins a terminal's colour code.
const ESCAPE: u8 = 0x1b;

/// A word after `Bearer ` or `Basic ` of at least so many bytes is taken for a credential.
const CREDENTIAL_MIN_BYTES: usize = 8;

/// Whether `name`, of a header, a query parameter or a field, names a secret. Case does not matter.
pub fn is_secret(name: &str) -> bool {
    announced(name).is_some()
}

/// What a log may show of a query string: the protocol's parameters with their values, secret ones
/// by name alone, and `[more]` in place of all others, whose very names may be secret.
pub fn query(query: &str) -> String {
    let mut shown = String::with_capacity(query.len().min(256));
    let mut more = false;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if SHOWN_PARAMETERS.contains(&name) && value.len() <= SHOWN_VALUE_BYTES {
            push_parameter(&mut shown, name, value);
        } else if is_plain_secret_name(name) && parameter.len() > name.len() {
            push_parameter(&mut shown, name, REDACTED);
        } else {
            more = true;
        }
    }
    if more {
        if !shown.is_empty() {
            shown.push('&');
        }
        shown.push_str("[more]");
    }
    shown
}

fn push_parameter(shown: &mut String, name: &str, value: &str) {
    if !shown.is_empty() {
        shown.push('&');
    }
    shown.push_str(name);
    shown.push('=');
    shown.push_str(value);
}

/// Whether `name` is one that people give to secrets, and not itself a secret that happens to
/// contain such a word.
fn is_plain_secret_name(name: &str) -> bool {
    name.len() <= 32 && name.bytes().all(is_word_byte) && is_secret(name)
}

/// A line of the log without the secrets that it gives away by their names: `name=value`,
/// `name: value`, `"name": "value"` also when it is quoted once more, `Bearer value`, and the user
/// in `scheme://user:password@host`. Too much may be taken, so names of secrets are best not used
/// for other things.
pub fn line(line: &str) -> Cow<'_, str> {
    let bytes = line.as_bytes();
    let mut clean = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        let found = if bytes[at..].starts_with(b"://") {
            user_info(bytes, at + 3).ok_or(at + 3)
        } else if bytes[at] == ESCAPE {
            Err(at + colour(&bytes[at..]).max(1))
        } else if is_word_byte(bytes[at]) {
            let end = at + run(&bytes[at..], is_word_byte);
            secret_after(line, at, end).ok_or(end)
        } else {
            Err(at + 1)
        };
        match found {
            Ok((start, end)) => {
                clean.push_str(&line[copied..start]);
                clean.push_str(REDACTED);
                copied = end;
                at = end;
            }
            Err(next) => at = next,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(line);
    }
    clean.push_str(&line[copied..]);
    Cow::Owned(clean)
}

/// Where the secret lies that the word at `start..end` of `line` announces.
fn secret_after(line: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let bytes = line.as_bytes();
    let word = &line[start..end];
    if word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic") {
        return credential(bytes, end);
    }
    let announced = announced(word)?;
    let separator = end + dressing(&bytes[end..]);
    match bytes.get(separator)? {
        b'=' => value(bytes, separator + 1, bare),
        b':' if announced == Announced::Perhaps => {
            // "unexpected token: ;" is no secret, but `"token": …` is, and `token: "…"`.
            let quoted_name = bytes[end..separator].contains(&b'"');
            let found = value(bytes, separator + 1, header_text)?;
            let quoted_value = bytes[found.0 - 1] == b'"';
            (quoted_name || quoted_value).then_some(found)
        }
        b':' => value(bytes, separator + 1, header_text),
        _ => None,
    }
}

/// Where the value lies that begins at or after `from`. `unquoted` tells the length of one that
/// has no quotes around it.
fn value(bytes: &[u8], from: usize, unquoted: impl Fn(&[u8]) -> usize) -> Option<(usize, usize)> {
    let mut start = from + blanks(&bytes[from..]);
    start += wrapper(&bytes[start..]);
    let escapes = run(&bytes[start..], |byte| byte == b'\\');
    let end = if bytes.get(start + escapes) == Some(&b'"') {
        start += escapes + 1;
        start + quoted(&bytes[start..], escapes)
    } else {
        start + unquoted(&bytes[start..])
    };
    (end > start).then_some((start, end))
}

/// The length of `Some(` and the like, which the debug form of a type puts before a value.
fn wrapper(bytes: &[u8]) -> usize {
    let name = run(bytes, is_word_byte);
    if name > 0 && bytes.get(name) == Some(&b'(') {
        name + 1 + wrapper(&bytes[name + 1..])
    } else {
        0
    }
}

/// The length of a string up to the quote that ends it, which has as many backslashes before it as
/// the one that began it; one with more belongs to the string.
fn quoted(bytes: &[u8], escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => backslashes += 1,
            b'"' if backslashes <= escapes => return at - backslashes,
            b'\n' => return at,
            _ => backslashes = 0,
        }
    }
    bytes.len()
}

/// The length of a header's value in a text: up to the end of the line, or of the string that the
/// text is printed in.
fn header_text(bytes: &[u8]) -> usize {
    quoted(bytes, usize::MAX)
}

/// The length of a value that stands without quotes in a query or a text.
fn bare(bytes: &[u8]) -> usize {
    let end = |(at, byte): (usize, &u8)| match byte {
        b'&' | b'#' | b'"' | 0..=b' ' => true,
        // Punctuation of the text around it, or a part of it: the byte after tells.
        b',' | b';' | b')' | b']' | b'}' | b'>' | b'\'' => bytes
            .get(at + 1)
            .is_none_or(|next| next.is_ascii_whitespace() || *next == b'"'),
        _ => false,
    };
    let length = bytes
        .iter()
        .enumerate()
        .position(end)
        .unwrap_or(bytes.len());
    // The backslashes that escape a quote belong to the quote.
    let escapes = match bytes.get(length) {
        Some(b'"') => bytes[..length]
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count(),
        _ => 0,
    };
    length - escapes
}

/// Where the credential lies that follows a scheme's name which ends at `end`.
fn credential(bytes: &[u8], end: usize) -> Option<(usize, usize)> {
    let spaces = run(&bytes[end..], |byte| byte == b' ');
    let start = end + spaces;
    let length = bare(&bytes[start..]);
    (spaces > 0 && length >= CREDENTIAL_MIN_BYTES).then_some((start, start + length))
}

/// Where the user and password lie of a URL whose authority begins at `start`.
fn user_info(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let length = run(&bytes[start..], |byte| {
        !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\\' | 0..=b' ')
    });
    let at = bytes[start..start + length]
        .iter()
        .rposition(|byte| *byte == b'@')?;
    (at > 0).then_some((start, start + at))
}

/// The length of the terminal's colour codes at the beginning of `bytes`.
fn colour(bytes: &[u8]) -> usize {
    let mut length = 0;
    while bytes[length..].starts_with(b"\x1b[") {
        let code = run(&bytes[length + 2..], |byte| {
            byte.is_ascii_digit() || byte == b';'
        });
        let end = length + 2 + code;
        if !bytes.get(end).is_some_and(u8::is_ascii_alphabetic) {
            return length;
        }
        length = end + 1;
    }
    length
}

/// The length of what may stand between a name and its separator: quotes, spaces and colours.
fn dressing(bytes: &[u8]) -> usize {
    skip(bytes, |byte| matches!(byte, b'"' | b'\'' | b'\\' | b' '))
}

/// The length of what may stand between a separator and its value: spaces and colours.
fn blanks(bytes: &[u8]) -> usize {
    skip(bytes, |byte| byte == b' ')
}

/// The length of colours and bytes that are `wanted` at the beginning of `bytes`.
fn skip(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    let mut length = 0;
    loop {
        let before = length;
        length += run(&bytes[length..], &wanted);
        length += colour(&bytes[length..]);
        if length == before {
            return length;
        }
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// How many of the first bytes are `wanted`.
fn run(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| !wanted(*byte))
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_shows_the_protocols_parameters_alone() {
        let cases = [
            ("", ""),
            ("offset=-1", "offset=-1"),
            (
                "offset=0_1&live=sse&cursor=12",
                "offset=0_1&live=sse&cursor=12",
            ),
            ("live=", "live="),
            (
                "offset=now&signature=abc",
                "offset=now&signature=[redacted]",
            ),
            ("X-Amz-Signature=abc", "X-Amz-Signature=[redacted]"),
            ("access_token=a=b", "access_token=[redacted]"),
            ("key=abc&offset=1", "key=[redacted]&offset=1"),
            ("dG9rZW4K", "[more]"),
            ("dG9rZW4K==", "[more]"),
            ("mytokenisverysecretandhasnovaluebehindit=", "[more]"),
            ("user=ada&offset=1&page=2", "offset=1&[more]"),
            ("Offset=secret", "[more]"),
        ];
        for (given, shown) in cases {
            assert_eq!(query(given), shown, "for {given}");
        }
        let long = format!("cursor={}", "9".repeat(SHOWN_VALUE_BYTES + 1));
        assert_eq!(query(&long), "[more]");
    }

    #[test]
    fn a_line_loses_its_secrets_and_nothing_else() {
        let cases = [
            (
                "GET /v1/stream/a?offset=-1&signature=abc, Host: example.com",
                "GET /v1/stream/a?offset=-1&signature=[redacted], Host: example.com",
            ),
            (
                "GET /a?token=a,b;c&live=sse HTTP/1.1",
                "GET /a?token=[redacted]&live=sse HTTP/1.1",
            ),
            (
                r#"{"authorization": "Bearer abc", "host": "x"}"#,
                r#"{"authorization": "[redacted]", "host": "x"}"#,
            ),
            (
                r#"{"message":"headers: {\"cookie\": \"a=b; c=d\", \"host\": \"x\"}"}"#,
                r#"{"message":"headers: {\"cookie\": \"[redacted]\", \"host\": \"x\"}"}"#,
            ),
            (
                r#"{"password": "a\"b", "host": "x"}"#,
                r#"{"password": "[redacted]", "host": "x"}"#,
            ),
            (
                r#"{"message":"GET /?sig=abc","status":3}"#,
                r#"{"message":"GET /?sig=[redacted]","status":3}"#,
            ),
            (
                r#"{"message":"Authorization: Basic YTpi\"","status":3}"#,
                r#"{"message":"Authorization: [redacted]\"","status":3}"#,
            ),
            ("Cookie: a=b; c=d\nhost: x", "Cookie: [redacted]\nhost: x"),
            (
                r#"Upstream { token: Some("abc"), url: "x" }"#,
                r#"Upstream { token: Some("[redacted]"), url: "x" }"#,
            ),
            (
                "cannot reach https://ada:secret@example.com/a@b",
                "cannot reach https://[redacted]@example.com/a@b",
            ),
            ("sent Bearer abcdefgh to it", "sent Bearer [redacted] to it"),
            (
                "\x1b[3mtoken\x1b[0m\x1b[2m=\x1b[0mabc \x1b[3mkey\x1b[0m\x1b[2m=\x1b[0m\"d\"",
                "\x1b[3mtoken\x1b[0m\x1b[2m=\x1b[0m[redacted] \x1b[3mkey\x1b[0m\x1b[2m=\x1b[0m\"[redacted]\"",
            ),
        ];
        for (given, clean) in cases {
            assert_eq!(line(given), clean, "for {given}");
        }
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for ordinary in [
            "",
            "unexpected token: ; in line 3",
            "listening on http://127.0.0.1:4437/v1/stream/*",
            "Basic usage: see the manual",
            "mail to ada@example.com, ftp://host/a@b",
            "a key is missing; the signature does not match",
            "\x1b[2m2026-01-01\x1b[0m \x1b[32m INFO\x1b[0m headwater: ready",
            "\x1b[",
            "\x1b",
            "token=",
            "token",
            "password:",
            "://",
            "größe=3 schlüssel: 4",
            "token=\x1b[ü",
        ] {
            assert!(
                matches!(line(ordinary), Cow::Borrowed(same) if same == ordinary),
                "{ordinary} became {}",
                line(ordinary)
            );
        }
    }

    #[test]
    fn names_of_secrets_are_known_in_any_case() {
        for name in [
            "Authorization",
            "Proxy-Authorization",
            "Set-Cookie",
            "Webhook-Signature",
            "X-Api-Key",
            "sig",
            "KEY",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["offset", "host", "monkey", "design", "author", "Stream-Seq"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn no_secret_is_left(
            secret in "[A-Za-z0-9._~+/%-]{12,40}",
            before in "[ -~]{0,20}",
            form in 0..8_usize,
        ) {
            let told = match form {
                0 => format!("GET /x?offset=1&signature={secret}&live=sse, Host: a"),
                1 => format!("Authorization: Bearer {secret}\nHost: a"),
                2 => format!(r#"{{"authorization": "Bearer {secret}", "host": "a"}}"#),
                3 => format!(r#"{{"m":"{{\"x-access-token\": \"{secret}\"}}"}}"#),
                4 => format!("Cookie: session={secret}; theme=dark"),
                5 => format!("connect to https://user:{}@a", secret.replace('/', "")),
                6 => format!("password={secret}"),
                _ => format!("api_key: Some(\"{secret}\")"),
            };
            // A space, so that what is before does not become a part of the name.
            let clean = line(&format!("{before} {told}")).into_owned();
            prop_assert!(!clean.contains(&secret.replace('/', "")), "{}", clean);
            prop_assert!(!clean.contains(&secret), "{}", clean);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}|[\"\\\\=: \x1b\\[m&tokenkyü]{0,80}") {
            let once = line(&text).into_owned();
            prop_assert_eq!(line(&once).matches(REDACTED).count(), once.matches(REDACTED).count());
            let _ = query(&text);
        }
    }
}
