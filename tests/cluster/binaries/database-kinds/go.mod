// The CustomResourceDefinition of CloudNativePG: `go mod download` verifies it with go.sum.
module tiercel.dev/tests/database-kinds

go 1.24.0

require github.com/cloudnative-pg/cloudnative-pg v1.28.0
