// The CustomResourceDefinitions of the Prometheus Operator: `go mod download` verifies them with go.sum.
module tiercel.dev/tests/prometheus-operator

go 1.24.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
