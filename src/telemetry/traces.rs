//! Traces of calls, exported by OTLP over gRPC where `tracing` is configured.

use super::TracingConfig;
use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};
use std::time::Duration;
use tonic::Code;

/// Spans that are not exported yet wait for this long when the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Where spans begin. Those that wait for the exporter are bounded, and dropped beyond.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// The span of one call that is traced, open until the call has ended.
#[derive(Debug)]
pub struct CallSpan(Span);

impl Traces {
    /// Connects when the first span is exported. Needs the control thread's scheduler around it.
    ///
    /// # Errors
    ///
    /// When the endpoint cannot be one.
    pub fn start(config: &TracingConfig) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).build();
        let exporter = exporter.with_context(|| format!("tracing.endpoint {}", config.endpoint))?;
        let share = 1.0 / f64::from(config.sample_one_in);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("seawall").with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("seawall");
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// Begins the span of a call, if it is one of those that are traced; etcd then gets it as the
    /// parent of its own, in `headers`. Any other call keeps the context that its client sent.
    pub fn begin(&self, path: &str, headers: &mut HeaderMap) -> Option<Box<CallSpan>> {
        let parent = self.propagator.extract(&Headers(headers));
        let name = path.trim_start_matches('/').to_owned();
        let (service, method) = name.rsplit_once('/').unwrap_or(("", &name));
        let attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service.to_owned()),
            KeyValue::new("rpc.method", method.to_owned()),
        ];
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server);
        let span = builder.with_attributes(attributes).start_with_context(&self.tracer, &parent);
        if !span.is_recording() {
            return None;
        }
        let own = parent.with_remote_span_context(span.span_context().clone());
        self.propagator.inject_context(&own, &mut Headers(headers));
        Some(Box::new(CallSpan(span)))
    }

    /// Exports what is left; returns when that is done, or takes too long.
    pub async fn stop(&self) {
        let provider = self.provider.clone();
        // The exporter runs on the thread that waits here, which so must not wait itself.
        let stopping =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX));
        if let Ok(Err(error)) = stopping.await {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl CallSpan {
    /// What is known of the call when it has ended.
    pub fn describe(&mut self, attributes: impl IntoIterator<Item = (&'static str, String)>) {
        for (name, value) in attributes {
            self.0.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Ends with the call.
    pub fn end(mut self, code: Code, bytes: u64) {
        self.0.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)));
        self.0.set_attribute(KeyValue::new("seawall.response.bytes", bytes as i64));
        if code != Code::Ok {
            self.0.set_status(Status::error(code.description()));
        }
        self.0.end();
    }
}

/// The context of a trace in the metadata of a call.
struct Headers<'h>(&'h mut HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        // Both are of the propagator's making, and plain ASCII; a state that is none goes unsaid.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
