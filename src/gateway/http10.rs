//! Answers of upstreams to clients of HTTP/1.0, who know no chunks.

use async_trait::async_trait;
use http::{Version, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::{HttpModule, HttpModuleBuilder, Module};
use std::any::Any;

/// Whether a client of this version knows neither chunks nor interim answers (RFC 9112, section 6.1,
/// and RFC 9110, section 15.2).
pub(super) fn is_old(version: Version) -> bool {
    version < Version::HTTP_11
}

/// Has `HttpProxy` send bodies of unknown length without chunks where they are not known. It adds them
/// after all else, so nothing but a module can take them out.
pub(super) struct Unchunking;

impl HttpModuleBuilder for Unchunking {
    fn init(&self) -> Module {
        Box::new(Unchunked { is_old: false })
    }
}

/// For one request.
struct Unchunked {
    is_old: bool,
}

#[async_trait]
impl HttpModule for Unchunked {
    async fn request_header_filter(&mut self, request: &mut RequestHeader) -> Result<()> {
        self.is_old = is_old(request.version);
        Ok(())
    }

    async fn response_header_filter(
        &mut self,
        response: &mut ResponseHeader,
        _: bool,
    ) -> Result<()> {
        if self.is_old {
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
