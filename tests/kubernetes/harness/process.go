package harness

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// A process is a server that runs for one test and writes its log to stderr.
type process struct {
	name string
	cmd  *exec.Cmd
	// ended is closed after the process has ended and its whole log was read.
	ended chan struct{}

	mu sync.Mutex // guards log
	// log holds the newest lines the process wrote, at most logLinesMax.
	log []string
}

const logLinesMax = 200

// startProcess starts bin. Every line of its log is given to onLine before it is kept.
func startProcess(name, bin string, args []string, onLine func(string)) (*process, error) {
	cmd := exec.Command(bin, args...)
	// A test binary that is killed runs no clean-up; the kernel then ends the servers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, ended: make(chan struct{})}
	go p.follow(stderr, onLine)
	return p, nil
}

func (p *process) follow(stderr io.Reader, onLine func(string)) {
	defer close(p.ended)
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" {
			onLine(line)
			p.keep(line)
		}
		if err != nil {
			break
		}
	}
	// Most processes are killed here, so how this one ended says nothing.
	_ = p.cmd.Wait()
}

func (p *process) keep(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, line)
	if len(p.log) > logLinesMax {
		p.log = p.log[1:]
	}
}

// tail returns the newest lines of the log.
func (p *process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// kill ends the process at once, if it still runs, and waits for that.
func (p *process) kill() {
	if p.hasEnded() {
		return
	}
	// The only error is that the process has just ended.
	_ = p.cmd.Process.Kill()
	<-p.ended
}
