//go:build tools

// Package tools names what critest needs, so that go.mod and go.sum pin it: "go test -c" of a package of another module
// takes that package's test imports from this module's go.sum, and the tool directive covers commands only.
package tools

import (
	_ "github.com/onsi/ginkgo/v2"
	_ "github.com/onsi/ginkgo/v2/types"
	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/framework"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
