// Package storage runs Kubernetes' storage layer, and the test suites Kubernetes has for it, on every target.
package storage

import (
	"testing"

	"seawall/tests/kubernetes/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
