package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Seawall is one Seawall process.
type Seawall struct {
	*process
	// Address is where clients reach it; it stays the same over a restart.
	Address string
	// Admin is the address of its admin port.
	Admin string
	args  []string
}

// startSeawall starts Seawall on a free port; it ends with the test.
func startSeawall(t testing.TB, args ...string) *Seawall {
	t.Helper()
	s := &Seawall{Address: "127.0.0.1:0", args: args}
	s.Start(t)
	t.Cleanup(func() {
		if s.hasEnded() {
			t.Errorf("Seawall ended on its own:\n%s", s.tail())
		}
		s.kill()
		s.report(t)
	})
	return s
}

// Start starts Seawall at its address and waits until clients can connect.
func (s *Seawall) Start(t testing.TB) {
	t.Helper()
	bin, err := seawallBinary()
	if err != nil {
		t.Fatal(err)
	}
	watch := newStartWatch()
	args := append([]string{"run", "--listen", s.Address, "--admin", "127.0.0.1:0", "--log-format", "json"}, s.args...)
	if s.process, err = startProcess("seawall", bin, args, watch.line); err != nil {
		t.Fatal(err)
	}
	select {
	case <-watch.started:
		s.Address, s.Admin = watch.address("main"), watch.address("admin")
	case <-s.ended:
		t.Fatalf("Seawall ended before it had started:\n%s", s.tail())
	case <-time.After(Patience):
		s.kill()
		t.Fatalf("Seawall had not started after %s:\n%s", Patience, s.tail())
	}
}

// Kill ends Seawall without a warning.
func (s *Seawall) Kill() { s.kill() }

// Terminate asks Seawall to end in order and waits until it did.
func (s *Seawall) Terminate(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
	case <-time.After(Patience):
		t.Fatalf("Seawall still ran %s after SIGTERM:\n%s", Patience, s.tail())
	}
}

// report shows the log of Seawall where it explains a failure. A panic is one in itself.
func (s *Seawall) report(t testing.TB) {
	if strings.Contains(s.tail(), "panicked at") {
		t.Error("Seawall panicked")
	}
	if t.Failed() {
		t.Logf("log of Seawall:\n%s", s.tail())
	}
}

// A startWatch reads the log lines Seawall writes while it starts.
type startWatch struct {
	started chan struct{} // closed when Seawall says that it has
	once    sync.Once

	mu        sync.Mutex        // guards addresses
	addresses map[string]string // by the name of the listener
}

func newStartWatch() *startWatch {
	return &startWatch{started: make(chan struct{}), addresses: map[string]string{}}
}

func (w *startWatch) line(text string) {
	var event struct{ Message, Listener, Address string }
	// A line that is no JSON, such as the text of a panic, announces nothing.
	if json.Unmarshal([]byte(text), &event) != nil {
		return
	}
	switch event.Message {
	case "listening":
		w.mu.Lock()
		defer w.mu.Unlock()
		w.addresses[event.Listener] = event.Address
	case "started":
		w.once.Do(func() { close(w.started) })
	}
}

func (w *startWatch) address(listener string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addresses[listener]
}

var seawallBinary = sync.OnceValues(func() (string, error) {
	bin := os.Getenv("SEAWALL_BIN")
	if bin == "" {
		bin = filepath.Join(repository(), "target/release/seawall")
	}
	_, err := os.Stat(bin)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no Seawall at %s: build it with `cargo build --release`, name another one in SEAWALL_BIN, "+
			"or test etcd alone with SEAWALL_TARGETS=direct", bin)
	}
	return bin, err
})
