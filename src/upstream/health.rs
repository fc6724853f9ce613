//! Checking whether upstreams are there.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::health_check::HealthCheck;
use pingora::{Error, ErrorType, Result};
use tokio::time::timeout;

use super::backends::{Target, target};
use super::client::Client;
use crate::config;

/// The largest answer to a check that is read to its end, so that its connection is kept.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How the upstreams of a route are checked.
pub(super) struct Check {
    settings: config::HealthCheck,
    client: Client,
    transport: TransportConnector,
}

impl Check {
    pub(super) fn new(settings: config::HealthCheck) -> Self {
        Self {
            settings,
            client: Client::new(),
            transport: TransportConnector::new(None),
        }
    }

    async fn connect(&self, target: &Target) -> Result<()> {
        self.transport.new_stream(&target.peer).await.map(drop)
    }

    async fn get(&self, target: &Target, path: &str) -> Result<()> {
        let mut head = RequestHeader::build("GET", path.as_bytes(), None)?;
        head.insert_header(header::HOST, &target.authority)?;
        head.insert_header(header::USER_AGENT, "headwater-health-check")?;
        let failed = |error: super::ExchangeError| {
            Error::because(ErrorType::ConnectError, "checking", error)
        };
        let exchange = self
            .client
            .send(&target.peer, head, Bytes::new(), self.settings.timeout)
            .await;
        let mut exchange = exchange.map_err(failed)?;
        let status = exchange.head.status;
        if !(status.is_success() || status.is_redirection()) {
            return Error::e_explain(ErrorType::HTTPStatus(status.as_u16()), "checking");
        }
        let mut read = 0;
        while read < ANSWER_BYTES_MAX {
            match exchange.next().await.map_err(failed)? {
                Some(piece) => read += piece.len(),
                None => break,
            }
        }
        Ok(())
    }

    async fn try_once(&self, target: &Target) -> Result<()> {
        match &self.settings.path {
            Some(path) => self.get(target, path).await,
            None => self.connect(target).await,
        }
    }
}

#[async_trait]
impl HealthCheck for Check {
    async fn check(&self, backend: &Backend) -> Result<()> {
        let Some(target) = target(backend) else {
            return Ok(());
        };
        let wait: Duration = self.settings.timeout;
        match timeout(wait, self.try_once(target)).await {
            Ok(checked) => checked,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "checking"),
        }
    }

    async fn health_status_change(&self, backend: &Backend, healthy: bool) {
        let Some(target) = target(backend) else {
            return;
        };
        let (upstream, address) = (&target.url, &backend.addr);
        if healthy {
            tracing::info!(%upstream, %address, "an upstream is back");
        } else {
            tracing::warn!(%upstream, %address, "an upstream is down");
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success {
            self.settings.healthy_after
        } else {
            self.settings.unhealthy_after
        }
    }
}
