//! Installs the servers to compare with, where they are missing.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server that is a crate.
pub(super) struct Crate {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

/// Both crates call their binary like this.
const BINARY: &str = "durable-streams-server";

/// Installs a crate below a directory of its own, and tells where its binary is.
pub(super) fn cargo(of: &Crate, competitors: &Path) -> io::Result<PathBuf> {
    let root = competitors.join(format!("{}-{}", of.name, of.version));
    let binary = root.join("bin").join(BINARY);
    if !binary.exists() {
        eprintln!("installing {} {}", of.name, of.version);
        let status = Command::new("cargo")
            .args(["install", "--locked", of.name, "--version", of.version])
            .arg("--root")
            .arg(&root)
            .env_remove("CARGO_TARGET_DIR")
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!(
                "{} could not be installed",
                of.name
            )));
        }
    }
    Ok(binary)
}

/// Installs the packages that the script for Node.js needs, and tells where the script is.
pub(super) fn npm() -> io::Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/node");
    if !dir.join("node_modules").exists() {
        let status = Command::new("npm")
            .args([
                "ci",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(&dir)
            .status()?;
        if !status.success() {
            return Err(io::Error::other("npm ci failed"));
        }
    }
    Ok(dir.join("server.mjs"))
}
