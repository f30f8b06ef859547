//! The data plane of Holdfast: it knows nothing of Kubernetes, YAML or HTTP.
