//! Headers that are lists (RFC 9110, section 5.6.1).

use http::{HeaderMap, HeaderName};

/// The elements of all lines of a header, in their order. Lines that are no text are passed over.
pub fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header};

    #[test]
    fn elements_are_those_of_all_lines() {
        let mut headers = HeaderMap::new();
        for line in ["close, X-One", "", " , x-two ,"] {
            headers.append(header::CONNECTION, HeaderValue::from_static(line));
        }
        let binary = HeaderValue::from_bytes(b"x-\xff").unwrap();
        headers.append(header::CONNECTION, binary);
        let elements: Vec<_> = elements(&headers, &header::CONNECTION).collect();
        assert_eq!(elements, ["close", "X-One", "x-two"]);
    }
}
