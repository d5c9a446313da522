//! What the server's parser lets pass and HTTP does not, under `/-/` too.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Problem;
use crate::dialect::head;

/// Answers only requests whose head is one.
pub(super) async fn only_well_formed(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(mistake) = head::judge(&parts) {
        return Problem::new(mistake.status(), mistake.to_string()).into_response();
    }
    next.run(Request::from_parts(parts, body)).await
}
