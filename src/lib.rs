//! Headwater: a reverse proxy on Pingora that makes HTTP streams durable.
