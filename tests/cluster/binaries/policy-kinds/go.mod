// The CustomResourceDefinitions of policies: `go mod download` verifies them with go.sum.
module tiercel.dev/tests/policy-kinds

go 1.24.0

require (
	github.com/cilium/cilium v1.20.2
	github.com/projectcalico/calico v1.11.0-cni-plugin.0.20250813170300-a0db560f0520
	sigs.k8s.io/network-policy-api v0.3.0
)
