// What kubectl and kubelet use to talk to a streaming server, pointed at orlopd: client-go's remotecommand and portforward, and the CRI
// client of k8s.io/cri-client that asks for the URLs. For tests/conformance/test_stream_clients.py.
//
//	stream-client -endpoint unix:///PATH -transport spdy|websocket WORD ARGUMENT...
//
//	exec CONTAINER CMD...            pass stdin, stdout, stderr and the exit code through
//	copy CONTAINER BYTES             random bytes through `cat` and back
//	half-close CONTAINER BYTES       random bytes into `sha256sum`, which answers after the end of its input only
//	many CONTAINER COUNT             sessions that are all open before the first one gets its input; each with an exit code of its own
//	slow CONTAINER BYTES COUNT       a session whose output nobody reads; COUNT others run to their end; then it is read
//	resize CONTAINER                 a terminal of three sizes, one after the other
//	attach CONTAINER                 pass stdin, stdout and stderr through
//	forward POD PORT BYTES COUNT     COUNT connections at once, each with random bytes to an echo server and back
//
// All but exec and attach print a line of JSON; any failure is a sentence on stderr and exit code 1.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/streaming/pkg/httpstream"
)

const patience = 5 * time.Minute

type client struct {
	runtime   internalapi.RuntimeService
	transport string
}

// counted is what went one way: how much, and its hash.
type counted struct {
	bytes int64
	hash  hash.Hash
}

func newCounted() *counted { return &counted{hash: sha256.New()} }

func (c *counted) Write(data []byte) (int, error) {
	c.bytes += int64(len(data))
	return c.hash.Write(data)
}

func (c *counted) hex() string { return hex.EncodeToString(c.hash.Sum(nil)) }

// random returns a reader of so many random bytes, and what has been read of them.
func random(seed byte, size int64) (io.Reader, *counted) {
	sent := newCounted()
	return io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{seed}), size), sent), sent
}

func (c *client) executor(address string) (remotecommand.Executor, error) {
	where, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if c.transport == "websocket" {
		return remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", where.String())
	}
	return remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", where)
}

// exec runs a command with its streams connected; a nonzero exit code is no error.
func (c *client) exec(ctx context.Context, container string, options remotecommand.StreamOptions, command ...string) (int, error) {
	answer, err := c.runtime.Exec(ctx, &cri.ExecRequest{
		ContainerId: container, Cmd: command, Tty: options.Tty,
		Stdin: options.Stdin != nil, Stdout: options.Stdout != nil, Stderr: options.Stderr != nil,
	})
	if err != nil {
		return 0, err
	}
	executor, err := c.executor(answer.Url)
	if err != nil {
		return 0, err
	}
	return exitCode(executor.StreamWithContext(ctx, options))
}

func exitCode(err error) (int, error) {
	var exited clientexec.CodeExitError
	if errors.As(err, &exited) {
		return exited.Code, nil
	}
	return 0, err
}

func (c *client) copy(ctx context.Context, container string, size int64) (any, error) {
	input, sent := random(1, size)
	received := newCounted()
	code, err := c.exec(ctx, container, remotecommand.StreamOptions{Stdin: input, Stdout: received}, "cat")
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"sent": sent.bytes, "received": received.bytes, "same": sent.hex() == received.hex(), "code": code,
	}, nil
}

func (c *client) halfClose(ctx context.Context, container string, size int64) (any, error) {
	input, sent := random(2, size)
	var output, complaints bytes.Buffer
	options := remotecommand.StreamOptions{Stdin: input, Stdout: &output, Stderr: &complaints}
	code, err := c.exec(ctx, container, options, "sh", "-c", "sha256sum; echo after >&2; exit 9")
	if err != nil {
		return nil, err
	}
	said, _, _ := strings.Cut(output.String(), " ")
	return map[string]any{
		"sent": sent.bytes, "same": sent.hex() == said, "stderr": complaints.String(), "code": code,
	}, nil
}

// gated is input that comes when everybody is ready, and says when its session is open: when the command's first output is there.
type gated struct {
	open  *sync.WaitGroup
	once  sync.Once
	text  string
	given bool
	out   bytes.Buffer
}

func (g *gated) Write(data []byte) (int, error) {
	g.once.Do(g.open.Done)
	return g.out.Write(data)
}

func (g *gated) Read(buffer []byte) (int, error) {
	if g.given {
		return 0, io.EOF
	}
	g.open.Wait()
	g.given = true
	return copy(buffer, g.text), nil
}

func (c *client) many(ctx context.Context, container string, count int) (any, error) {
	var open, ended sync.WaitGroup
	open.Add(count)
	problems := make([]error, count)
	for number := range count {
		ended.Go(func() {
			own := &gated{open: &open, text: fmt.Sprintf("%d\n", number)}
			// A session that fails must not keep the others waiting.
			defer own.once.Do(open.Done)
			options := remotecommand.StreamOptions{Stdin: own, Stdout: own}
			code, err := c.exec(ctx, container, options, "sh", "-c", "echo open; read x; echo got $x; exit $x")
			if want := fmt.Sprintf("open\ngot %d\n", number); err == nil && (own.out.String() != want || code != number%256) {
				err = fmt.Errorf("session %d: %q, exit code %d", number, own.out.String(), code)
			}
			problems[number] = err
		})
	}
	ended.Wait()
	return map[string]any{"sessions": count}, errors.Join(problems...)
}

// shut is an output that takes nothing before it is opened.
type shut struct {
	began  sync.Once
	first  chan struct{}
	opened chan struct{}
	taken  *counted
}

func (s *shut) Write(data []byte) (int, error) {
	s.began.Do(func() { close(s.first) })
	<-s.opened
	return s.taken.Write(data)
}

func (c *client) slow(ctx context.Context, container string, size int64, others int) (any, error) {
	reader := &shut{first: make(chan struct{}), opened: make(chan struct{}), taken: newCounted()}
	var finished atomic.Bool
	result := make(chan error, 1)
	go func() {
		code, err := c.exec(ctx, container, remotecommand.StreamOptions{Stdout: reader},
			"sh", "-c", fmt.Sprintf("yes orlop | head -c %d; exit 6", size))
		finished.Store(true)
		if err == nil && code != 6 {
			err = fmt.Errorf("the slow session: exit code %d", code)
		}
		result <- err
	}()
	select {
	case <-reader.first:
	case err := <-result:
		return nil, fmt.Errorf("the slow session ended before its first byte: %w", err)
	}
	for number := range others {
		answer, err := c.copy(ctx, container, 1<<20)
		if err != nil || !answer.(map[string]any)["same"].(bool) {
			return nil, fmt.Errorf("session %d beside the slow one: %v: %w", number, answer, err)
		}
	}
	early := finished.Load()
	close(reader.opened)
	if err := <-result; err != nil {
		return nil, err
	}
	whole := newCounted()
	line := []byte(strings.Repeat("orlop\n", 1<<14))
	for left := size; left > 0; left -= int64(len(line)) {
		_, _ = whole.Write(line[:min(left, int64(len(line)))])
	}
	return map[string]any{
		"others": others, "waited": !early, "received": reader.taken.bytes, "same": whole.hex() == reader.taken.hex(),
	}, nil
}

// sizes hands out the next size when the one before it has been seen.
type sizes struct {
	next chan remotecommand.TerminalSize
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	size, more := <-s.next
	if !more {
		return nil
	}
	return &size
}

// watched is output in which texts are waited for.
type watched struct {
	mutex sync.Mutex
	grown *sync.Cond
	text  bytes.Buffer
}

func newWatched() *watched {
	made := &watched{}
	made.grown = sync.NewCond(&made.mutex)
	return made
}

func (w *watched) Write(data []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	defer w.grown.Broadcast()
	return w.text.Write(data)
}

func (w *watched) until(text string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for !strings.Contains(w.text.String(), text) {
		w.grown.Wait()
	}
}

func (c *client) resize(ctx context.Context, container string) (any, error) {
	queue := &sizes{next: make(chan remotecommand.TerminalSize, 1)}
	input, typed := io.Pipe()
	output := newWatched()
	seen := []string{}
	go func() {
		queue.next <- remotecommand.TerminalSize{Width: 101, Height: 31}
		_, _ = io.WriteString(typed, "while :; do stty size; read -t 1 x && break; done; exit 3\n")
		for _, size := range []remotecommand.TerminalSize{{}, {Width: 102, Height: 32}, {Width: 203, Height: 53}} {
			want := "31 101"
			if size.Width != 0 {
				queue.next <- size
				want = fmt.Sprintf("%d %d", size.Height, size.Width)
			}
			output.until(want + "\r\n")
			seen = append(seen, want)
		}
		close(queue.next)
		_, _ = io.WriteString(typed, "over\n")
	}()
	options := remotecommand.StreamOptions{Stdin: input, Stdout: output, Tty: true, TerminalSizeQueue: queue}
	code, err := c.exec(ctx, container, options, "sh")
	return map[string]any{"seen": seen, "code": code}, err
}

func (c *client) attach(ctx context.Context, container string) error {
	answer, err := c.runtime.Attach(ctx, &cri.AttachRequest{ContainerId: container, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	executor, err := c.executor(answer.Url)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

func (c *client) dialer(address string) (httpstream.Dialer, error) {
	where, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if c.transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(where, &rest.Config{})
	}
	carrier, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: carrier}, "POST", where), nil
}

func (c *client) forward(ctx context.Context, pod string, port string, size int64, count int) (any, error) {
	answer, err := c.runtime.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: pod})
	if err != nil {
		return nil, err
	}
	dialer, err := c.dialer(answer.Url)
	if err != nil {
		return nil, err
	}
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var complaints watched
	complaints.grown = sync.NewCond(&complaints.mutex)
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:" + port}, stop, ready, io.Discard, &complaints)
	if err != nil {
		return nil, err
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return nil, fmt.Errorf("the session ended before it was ready: %w", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return nil, err
	}
	local := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local)))
	var waiting sync.WaitGroup
	problems := make([]error, count)
	for number := range count {
		waiting.Go(func() { problems[number] = echo(local, byte(number), size) })
	}
	waiting.Wait()
	close(stop)
	if err := <-ended; err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, complaints.text.String())
	}
	return map[string]any{"connections": count, "bytes": size, "complaints": complaints.text.String()}, nil
}

// echo sends random bytes, ends its side, and wants the same bytes and then the end.
func echo(address string, seed byte, size int64) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	received := newCounted()
	input, sent := random(seed, size)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(received, connection)
		done <- err
	}()
	if _, err := io.Copy(connection, input); err != nil {
		return fmt.Errorf("connection %d: after %d bytes: %w", seed, sent.bytes, err)
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	if sent.bytes != size || received.bytes != size || sent.hex() != received.hex() {
		return fmt.Errorf("connection %d: sent %d bytes, received %d, not the same", seed, sent.bytes, received.bytes)
	}
	return nil
}

func (c *client) run(ctx context.Context, word string, arguments []string) (any, int, error) {
	number := func(index int) int64 {
		value, err := strconv.ParseInt(arguments[index], 10, 64)
		if err != nil {
			panic(err)
		}
		return value
	}
	var answer any
	var err error
	switch word {
	case "exec":
		options := remotecommand.StreamOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		code, err := c.exec(ctx, arguments[0], options, arguments[1:]...)
		return nil, code, err
	case "attach":
		err = c.attach(ctx, arguments[0])
	case "copy":
		answer, err = c.copy(ctx, arguments[0], number(1))
	case "half-close":
		answer, err = c.halfClose(ctx, arguments[0], number(1))
	case "many":
		answer, err = c.many(ctx, arguments[0], int(number(1)))
	case "slow":
		answer, err = c.slow(ctx, arguments[0], number(1), int(number(2)))
	case "resize":
		answer, err = c.resize(ctx, arguments[0])
	case "forward":
		answer, err = c.forward(ctx, arguments[0], arguments[1], number(2), int(number(3)))
	default:
		err = fmt.Errorf("unknown word %q", word)
	}
	return answer, 0, err
}

func main() {
	endpoint := flag.String("endpoint", "", "the CRI socket, unix:///PATH")
	transport := flag.String("transport", "spdy", "spdy or websocket")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "stream-client:", err)
		os.Exit(1)
	}
	runtime, err := criclient.NewRemoteRuntimeService(ctx, *endpoint, 30*time.Second, nil, false)
	if err != nil {
		fail(err)
	}
	made := &client{runtime: runtime, transport: *transport}
	answer, code, err := made.run(ctx, flag.Arg(0), flag.Args()[1:])
	if err != nil {
		fail(err)
	}
	if answer != nil {
		_ = json.NewEncoder(os.Stdout).Encode(answer)
	}
	os.Exit(code)
}
