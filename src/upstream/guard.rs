//! Which addresses may be connected to on a client's behalf.
//!
//! A name is resolved once and its addresses are looked at; what is then connected to is one of the
//! addresses that passed, and never the name again, which could mean something else by then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use url::Host;

/// Why there is no address to connect to.
#[derive(Debug, Error)]
pub enum GuardError {
    #[error("the host cannot be resolved: {0}")]
    Lookup(#[from] io::Error),
    #[error("the host has no address")]
    NoAddress,
    #[error("the host is at an address that may not be connected to")]
    Refused,
}

/// How far an address may be trusted to be what a client may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Anybody can reach it.
    Public,
    /// Only machines near this one can.
    Private,
    /// It is no single host of others: this link, a group, a cloud's metadata, examples.
    Special,
}

/// The addresses of a host that may be connected to. `is_named`: the configuration names the host
/// itself, without a wildcard. Such a name may mean a private address; a special one is reached only
/// where the configuration names the address.
///
/// Callers bound the time that this may take.
pub async fn resolve(
    host: Host<&str>,
    port: u16,
    is_named: bool,
) -> Result<Vec<SocketAddr>, GuardError> {
    let most = if is_named {
        Reach::Private
    } else {
        Reach::Public
    };
    match host {
        Host::Domain(name) => {
            let found = tokio::net::lookup_host((name, port)).await?;
            permitted(found.collect(), most)
        }
        Host::Ipv4(address) => literal(address.into(), port, is_named),
        Host::Ipv6(address) => literal(address.into(), port, is_named),
    }
}

fn literal(address: IpAddr, port: u16, is_named: bool) -> Result<Vec<SocketAddr>, GuardError> {
    let most = if is_named {
        Reach::Special
    } else {
        Reach::Public
    };
    permitted(vec![SocketAddr::new(address, port)], most)
}

/// Those of `found` that reach no further than `most`.
fn permitted(mut found: Vec<SocketAddr>, most: Reach) -> Result<Vec<SocketAddr>, GuardError> {
    if found.is_empty() {
        return Err(GuardError::NoAddress);
    }
    found.retain(|address| reach(address.ip()) <= most);
    if found.is_empty() {
        return Err(GuardError::Refused);
    }
    Ok(found)
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let octets = address.octets();
    // This network; link-local, with the metadata of most clouds; metadata of another, in a range that
    // is merely private; multicast, reserved and broadcast.
    let is_special = matches!(
        octets,
        [0 | 224..=255, ..] | [169, 254, ..] | [100, 100, 100, 200]
    );
    // Protocol assignments and documentation; 6to4 relays; benchmarking; documentation.
    let is_set_aside = matches!(
        octets,
        [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    );
    let is_private = matches!(
        octets,
        [10 | 127, ..] | [100, 64..=127, ..] | [172, 16..=31, ..] | [192, 168, ..]
    );
    if is_special || is_set_aside {
        Reach::Special
    } else if is_private {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let segments = address.segments();
    match segments {
        // A cloud's metadata, in a range that is merely private.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        // Protocol assignments, with benchmarking, but for Teredo; documentation.
        | [0x2001, 1..=0x1ff | 0xdb8, ..]
        | [0x3fff, ..=0xfff, ..] => Reach::Special,
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Reach::Private,
        // IPv4 inside: compatible and translated; mapped; NAT64; 6to4.
        [0, 0, 0, 0, 0 | 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => reach_v4(v4(high, low)),
        // NAT64 as a network sets it up for itself.
        [0x64, 0xff9b, 1, .., high, low] => reach_v4(v4(high, low)).max(Reach::Private),
        // Teredo: its server, and its client with all bits turned over.
        [0x2001, 0, server_high, server_low, .., high, low] => {
            reach_v4(v4(server_high, server_low)).max(reach_v4(v4(!high, !low)))
        }
        [0x2000..=0x3fff, ..] => Reach::Public,
        // Unspecified, link-local, multicast, and what nobody has been given.
        _ => Reach::Special,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PUBLIC: [&str; 8] = [
        "1.1.1.1",
        "9.255.255.255",
        "172.15.0.1",
        "172.32.0.1",
        "100.128.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "192.0.1.1",
    ];
    const PRIVATE: [&str; 8] = [
        "10.0.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
    ];
    const SPECIAL: [&str; 14] = [
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
    ];

    fn of(text: &str) -> Reach {
        reach(text.parse().unwrap())
    }

    /// The ways to write an IPv4 address inside an IPv6 one.
    fn inside_v6(address: Ipv4Addr) -> Vec<String> {
        let bits = address.to_bits();
        let (high, low) = (bits >> 16, bits & 0xffff);
        vec![
            format!("::ffff:{high:x}:{low:x}"),
            format!("::ffff:0:{high:x}:{low:x}"),
            format!("64:ff9b::{high:x}:{low:x}"),
            format!("2002:{high:x}:{low:x}::1"),
            format!("2001:0:101:101::{:x}:{:x}", !high & 0xffff, !low & 0xffff),
            format!("2001:0:{high:x}:{low:x}::{:x}:{:x}", 0xfefe, 0xfefe),
        ]
    }

    #[test]
    fn each_range_has_its_reach() {
        let all = [
            (&PUBLIC[..], Reach::Public),
            (&PRIVATE[..], Reach::Private),
            (&SPECIAL[..], Reach::Special),
        ];
        for (addresses, expected) in all {
            for address in addresses {
                assert_eq!(of(address), expected, "{address}");
                for inside in inside_v6(address.parse().unwrap()) {
                    assert_eq!(of(&inside), expected, "{inside}, which is {address}");
                }
            }
        }
    }

    #[test]
    fn ipv6_ranges_have_their_reach() {
        for address in [
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "3fff:1000::1",
            "2001:200::1",
        ] {
            assert_eq!(of(address), Reach::Public, "{address}");
        }
        for address in [
            "::1",
            "fc00::1",
            "fdff::1",
            "::127.0.0.1",
            "64:ff9b:1::1.1.1.1",
        ] {
            assert_eq!(of(address), Reach::Private, "{address}");
        }
        for address in [
            "::",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "2001:db8::1",
            "2001:2::1",
            "2001:10::1",
            "3fff::1",
            "100::1",
            "4000::1",
            "5f00::1",
            "::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
        ] {
            assert_eq!(of(address), Reach::Special, "{address}");
        }
    }

    fn resolved(url: &str, is_named: bool) -> Result<Vec<SocketAddr>, GuardError> {
        let url = url::Url::parse(url).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(resolve(
                url.host().unwrap(),
                url.port_or_known_default().unwrap(),
                is_named,
            ))
    }

    #[test]
    fn addresses_in_urls_are_refused_unless_they_are_named() {
        for url in [
            "http://127.0.0.1:81/",
            "http://2130706433:81/",
            "http://[::ffff:7f00:1]:81/",
            "http://169.254.169.254:81/",
            "http://[::]:81/",
        ] {
            assert!(
                matches!(resolved(url, false), Err(GuardError::Refused)),
                "{url}"
            );
            assert_eq!(resolved(url, true).unwrap()[0].port(), 81, "{url}");
        }
        let expected: SocketAddr = "1.1.1.1:443".parse().unwrap();
        assert_eq!(resolved("https://1.1.1.1/", false).unwrap(), [expected]);
    }

    #[test]
    fn a_name_is_looked_up_and_its_addresses_are_looked_at() {
        assert!(matches!(
            resolved("http://localhost/", false),
            Err(GuardError::Refused)
        ));
        let found = resolved("http://localhost:82/", true).unwrap();
        assert!(
            found
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 82)
        );
        assert!(matches!(
            resolved("http://no-such-host.invalid/", true),
            Err(GuardError::Lookup(_))
        ));
    }

    #[test]
    fn a_name_never_means_a_special_address() {
        let at = |addresses: &[&str]| {
            let addresses = addresses
                .iter()
                .map(|a| SocketAddr::new(a.parse().unwrap(), 80));
            addresses.collect::<Vec<_>>()
        };
        let found = at(&["169.254.169.254", "10.0.0.1", "1.1.1.1", "fd00:ec2::254"]);
        assert_eq!(
            permitted(found.clone(), Reach::Private).unwrap(),
            at(&["10.0.0.1", "1.1.1.1"])
        );
        assert_eq!(permitted(found, Reach::Public).unwrap(), at(&["1.1.1.1"]));
        assert!(matches!(
            permitted(at(&["169.254.169.254"]), Reach::Private),
            Err(GuardError::Refused)
        ));
        assert!(matches!(
            permitted(vec![], Reach::Special),
            Err(GuardError::NoAddress)
        ));
    }

    proptest! {
        #[test]
        fn an_ipv4_address_reaches_no_further_inside_ipv6(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            for inside in inside_v6(address) {
                prop_assert!(of(&inside) >= reach_v4(address), "{}", inside);
            }
        }
    }
}
