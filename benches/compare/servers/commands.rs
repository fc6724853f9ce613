//! The command line and the configuration of each server: its defaults, but for what durability and
//! a fair measurement ask for.

use super::Setup;
use super::install::{self, Crate};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

pub(super) const DURABLE_STREAMS: Crate = Crate {
    name: "durable-streams",
    version: "0.1.5",
};
pub(super) const AXUM: Crate = Crate {
    name: "durable-streams-server",
    version: "0.3.0",
};

/// Headwater, in the clear and, if asked for, with TLS.
pub(super) fn headwater(
    setup: &Setup,
    dir: &Path,
    address: SocketAddr,
    tls: Option<SocketAddr>,
) -> io::Result<Vec<String>> {
    let site = |address: SocketAddr, more: &str| {
        format!(
            r#"
            [[site]]
            listen = ["{address}"]
            {more}
            [[site.route]]
            path = "{prefix}*"
            # Readers stay for as long as they are measured.
            streams = {{ sse_recycle = "1h" }}
            "#,
            prefix = crate::http::PREFIX,
        )
    };
    let mut text = format!(
        r#"
        data_dir = "{dir}/data"
        [log]
        {log_settings}
        [logging]
        level = "warn"
        access = false
        "#,
        dir = dir.display(),
        log_settings = setup.log_settings,
    );
    text += &site(address, "");
    if let Some(tls) = tls {
        let dir = dir.display();
        let pair = format!(r#"cert = "{dir}/cert.pem", key = "{dir}/key.pem""#);
        text += &site(tls, &format!("tls = {{ certificates = [{{ {pair} }}] }}"));
    }
    let config = dir.join("headwater.toml");
    fs::write(&config, text)?;
    let headwater = setup.headwater.display().to_string();
    let config = config.display().to_string();
    Ok(vec![headwater, "run".into(), "--config".into(), config])
}

/// Durable by default.
pub(super) fn durable_streams(setup: &Setup, dir: &Path, port: u16) -> io::Result<Vec<String>> {
    let binary = install::cargo(&DURABLE_STREAMS, &setup.competitors)?;
    Ok(vec![
        binary.display().to_string(),
        "--port".into(),
        port.to_string(),
        "--data-dir".into(),
        dir.join("data").display().to_string(),
    ])
}

/// Durable only if asked for. Its default bounds of memory and of streams would refuse most rows.
pub(super) fn axum(setup: &Setup, dir: &Path, address: SocketAddr) -> io::Result<Vec<String>> {
    let binary = install::cargo(&AXUM, &setup.competitors)?;
    let text = format!(
        r#"
        [server]
        bind_address = "{address}"
        [limits]
        max_memory_bytes = 17179869184
        max_stream_bytes = 17179869184
        [storage]
        mode = "file-durable"
        data_dir = "{dir}/data"
        [observability]
        rust_log = "warn"
        "#,
        dir = dir.display(),
    );
    let config = dir.join("axum.toml");
    fs::write(&config, text)?;
    let binary = binary.display().to_string();
    let config = config.display().to_string();
    Ok(vec![binary, "--config".into(), config])
}

/// Durable with data in files.
pub(super) fn node(dir: &Path, port: u16) -> io::Result<Vec<String>> {
    let script = install::npm()?.display().to_string();
    let data = dir.join("data").display().to_string();
    Ok(vec!["node".into(), script, port.to_string(), data])
}

/// A proxy that ends TLS, with as many workers as there are cores and connections to the server that
/// are kept.
pub(super) fn nginx(dir: &Path, tls: SocketAddr, server: SocketAddr) -> io::Result<Vec<String>> {
    let text = format!(
        "daemon off; worker_processes auto; error_log stderr warn; pid {dir}/pid;
        events {{ worker_connections 8192; }}
        http {{
            access_log off;
            client_body_temp_path {dir}/body-temp; proxy_temp_path {dir}/proxy-temp;
            fastcgi_temp_path {dir}/fastcgi-temp; uwsgi_temp_path {dir}/uwsgi-temp;
            scgi_temp_path {dir}/scgi-temp;
            keepalive_requests 1000000000;
            upstream server {{
                server {server}; keepalive 512; keepalive_requests 1000000000;
            }}
            server {{
                listen {tls} ssl http2;
                ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
                location / {{
                    proxy_pass http://server;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_buffering off;
                }}
            }}
        }}",
        dir = dir.display(),
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text)?;
    let dir = dir.display().to_string();
    let config = config.display().to_string();
    Ok(vec!["nginx".into(), "-p".into(), dir, "-c".into(), config])
}

/// A certificate and its key, in the files that the configurations name.
pub(super) fn put_certificate(dir: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.map_err(io::Error::other)?;
    fs::write(dir.join("cert.pem"), made.cert.pem())?;
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())
}
