//! Who the client is: what proxies before this one say of it, and what the upstream is told.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use pingora::http::RequestHeader;

use crate::config::{Forwarded, ReverseProxy};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Others that upstreams take for the word of a proxy.
const X_OTHERS: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// What is known of a client by its connection.
#[derive(Debug, Clone, Copy)]
pub struct ClientFacts {
    /// Its address; `None` at a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it speaks TLS.
    pub encrypted: bool,
}

/// By which headers upstreams are told who the client is, and whose word is taken for it.
pub(super) struct Forwarding {
    headers: Forwarded,
    trusted: Vec<IpNet>,
}

impl Forwarding {
    pub(super) fn new(settings: &ReverseProxy) -> Self {
        Self {
            headers: settings.forwarded,
            trusted: settings.trusted_proxies.clone(),
        }
    }

    /// Writes the headers of a request. `host` is the one that the client asked for.
    pub(super) fn apply(
        &self,
        head: &mut RequestHeader,
        client: &ClientFacts,
        host: Option<&HeaderValue>,
    ) {
        remove_lookalikes(head);
        if !self.trusts_client(client) {
            for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
                head.remove_header(&name);
            }
            for name in X_OTHERS {
                head.remove_header(&name);
            }
            head.remove_header(&header::FORWARDED);
        }
        if matches!(self.headers, Forwarded::XForwarded | Forwarded::Both) {
            apply_x_forwarded(head, client, host);
        }
        if matches!(self.headers, Forwarded::Standard | Forwarded::Both) {
            apply_standard(head, client, host);
        }
    }

    /// The address of the client, as far as the proxies before this one are trusted to know it.
    pub(super) fn client_address(
        &self,
        headers: &HeaderMap,
        client: &ClientFacts,
    ) -> Option<IpAddr> {
        if !self.trusts_client(client) {
            return client.address;
        }
        let said = joined(headers, &X_FORWARDED_FOR);
        let said = said.split(',').rev().map(str::trim);
        let mut farthest = client.address;
        for address in said.map_while(|text| text.parse::<IpAddr>().ok()) {
            farthest = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        farthest
    }

    fn trusts_client(&self, client: &ClientFacts) -> bool {
        client.address.is_none_or(|address| self.trusts(address))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// Takes out what many an upstream takes for one of these headers: to CGI and its like, `X_Real_IP` is
/// `X-Real-IP`. No proxy sends them so.
fn remove_lookalikes(head: &mut RequestHeader) {
    let names = head.headers.keys();
    let lookalikes: Vec<_> = names
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| {
            let meant = name.as_str().replace('_', "-");
            let ours = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];
            let mut known = ours.into_iter().chain(X_OTHERS);
            known.any(|known| known.as_str() == meant)
        })
        .cloned()
        .collect();
    for name in lookalikes {
        head.remove_header(&name);
    }
}

fn apply_x_forwarded(head: &mut RequestHeader, client: &ClientFacts, host: Option<&HeaderValue>) {
    if let Some(address) = client.address {
        let said = joined(&head.headers, &X_FORWARDED_FOR);
        let address = address.to_canonical();
        let all = if said.is_empty() {
            address.to_string()
        } else {
            format!("{said}, {address}")
        };
        let _ = head.insert_header(X_FORWARDED_FOR, all);
    }
    if !head.headers.contains_key(X_FORWARDED_PROTO) {
        let _ = head.insert_header(X_FORWARDED_PROTO, scheme(client));
    }
    if let Some(host) = host
        && !head.headers.contains_key(X_FORWARDED_HOST)
    {
        let _ = head.insert_header(X_FORWARDED_HOST, host.clone());
    }
}

fn apply_standard(head: &mut RequestHeader, client: &ClientFacts, host: Option<&HeaderValue>) {
    let by = match client.address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    };
    // What needs escapes in quotes is no host.
    let host = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| !host.contains(['"', '\\']))
        .map_or_else(String::new, |host| format!(";host=\"{host}\""));
    let said = joined(&head.headers, &header::FORWARDED);
    let comma = if said.is_empty() { "" } else { ", " };
    let element = format!("{said}{comma}{by};proto={}{host}", scheme(client));
    let _ = head.insert_header(header::FORWARDED, element);
}

fn scheme(client: &ClientFacts) -> &'static str {
    if client.encrypted { "https" } else { "http" }
}

/// All values of a header as one list.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).into_iter();
    let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(trusted: &[&str]) -> Forwarding {
        Forwarding {
            headers: Forwarded::Both,
            trusted: trusted.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn client(address: &str) -> ClientFacts {
        ClientFacts {
            address: Some(address.parse().unwrap()),
            encrypted: true,
        }
    }

    fn request(said: &[&str]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for said in said {
            head.append_header(X_FORWARDED_FOR, *said).unwrap();
        }
        head
    }

    #[test]
    fn the_client_is_the_last_that_no_trusted_proxy_vouches_for() {
        let forwarding = forwarding(&["10.0.0.0/8"]);
        for (address, said, found) in [
            ("1.1.1.1", &["9.9.9.9"][..], "1.1.1.1"),
            ("10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("::ffff:10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["8.8.8.8, 9.9.9.9", "10.0.0.2"], "9.9.9.9"),
            ("10.0.0.1", &["10.0.0.3"], "10.0.0.3"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let head = request(said);
            let address = forwarding.client_address(&head.headers, &client(address));
            assert_eq!(address, Some(found.parse().unwrap()), "{said:?}");
        }
    }

    #[test]
    fn addresses_of_version_6_are_written_in_quotes() {
        let mut head = request(&[]);
        let host = HeaderValue::from_static("a.example");
        forwarding(&[]).apply(&mut head, &client("2001:db8::1"), Some(&host));
        assert_eq!(head.headers["x-forwarded-for"], "2001:db8::1");
        let standard = "for=\"[2001:db8::1]\";proto=https;host=\"a.example\"";
        assert_eq!(head.headers["forwarded"], standard);
    }

    #[test]
    fn a_client_at_a_unix_socket_is_trusted() {
        let mut head = request(&["9.9.9.9"]);
        let facts = ClientFacts {
            address: None,
            encrypted: false,
        };
        forwarding(&[]).apply(&mut head, &facts, None);
        assert_eq!(head.headers["x-forwarded-for"], "9.9.9.9");
    }
}
