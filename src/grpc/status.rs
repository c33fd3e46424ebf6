//! A gRPC status in the places where it travels.

use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::{Code, Status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// The head of an answer whose status follows in its trailers.
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A whole answer that is nothing but a status.
pub fn trailers_only(status: &Status) -> Response<()> {
    let mut response = head();
    response.headers_mut().extend(trailers(status));
    response
}

/// The end of an answer.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    if status.code() == Code::Ok || status.add_header(&mut headers).is_err() {
        let code =
            if status.code() == Code::Ok { OK } else { HeaderValue::from(status.code() as i32) };
        headers.insert(Status::GRPC_STATUS, code);
    }
    headers
}

/// The status that trailers, or the head of an answer that is only a status, carry. `None` where
/// there is none.
pub fn from_headers(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_journey() {
        let sent = Status::new(Code::OutOfRange, "100 % of \"them\"\nand more");
        let back = from_headers(&trailers(&sent)).expect("a status");
        assert_eq!((back.code(), back.message()), (sent.code(), sent.message()));
        assert_eq!(trailers(&Status::new(Code::Ok, ""))[Status::GRPC_STATUS], "0");
    }
}
