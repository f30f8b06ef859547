package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const startLimit = 120 * time.Second

// up starts the cluster: here, or as a process that outlives this one. Where one runs, it is left alone.
func up(place folder, wanted options, foreground bool) error {
	if foreground {
		return serve(place, wanted)
	}
	if running, err := place.readState(); err == nil && ask(place, "ping") == nil {
		if running.Options != wanted {
			return fmt.Errorf("a cluster with other options runs in %s; `cluster down` first", place)
		}
		fmt.Printf("there: export KUBECONFIG=%s\n", place.path("kubeconfig"))
		return nil
	}
	if !wanted.APIOnly {
		if err := nodePossible(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(place.path("log"), 0o755); err != nil {
		return err
	}
	log, err := os.Create(place.path("log/cluster"))
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"up", "--foreground", "--dir", string(place)}
	if wanted.APIOnly {
		args = append(args, "--api-only")
	}
	if wanted.Audit {
		args = append(args, "--audit")
	}
	started := time.Now()
	command := exec.Command(self, args...)
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	_ = os.Remove(place.path("ready"))
	err = until(startLimit+30*time.Second, func() error {
		select {
		case <-ended:
			return fmt.Errorf("it did not start:\n%s", logTail(place, "cluster"))
		default:
			return nil
		}
	}, func() error {
		_, err := os.Stat(place.path("ready"))
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("up after %.1f s: export KUBECONFIG=%s\n", time.Since(started).Seconds(), place.path("kubeconfig"))
	return nil
}

// cluster is a running one, seen from its supervisor.
type cluster struct {
	place    folder
	state    state
	kube     string
	programs []*program
	node     *node
	// clients says that the programs that need the API server were started.
	clients bool
	// exposed are the listeners of ports that pods may reach, by port.
	exposed map[uint64]net.Listener
}

// request is what came in over the control socket, with the way to answer it.
type request struct {
	line   string
	answer chan error
}

// serve runs the cluster until it is told to end. It stays on the main thread.
func serve(place folder, wanted options) error {
	lock, err := place.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := place.clear(); err != nil {
		return err
	}
	c, err := begin(place, wanted)
	if c != nil {
		defer c.end()
	}
	if err != nil {
		return err
	}
	requests := make(chan request)
	listener, err := net.Listen("unix", place.path("control"))
	if err != nil {
		return err
	}
	defer listener.Close()
	go listen(listener, requests)

	served, ready := make(chan error, 1), make(chan error, 1)
	go func() {
		err := c.untilServed()
		served <- err
		if err == nil {
			ready <- c.untilReady()
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-signals:
			return nil
		case err := <-served:
			if err != nil {
				return err
			}
			if err := c.startClients(); err != nil {
				return err
			}
		case err := <-ready:
			if err != nil {
				return err
			}
			if err := os.WriteFile(place.path("ready"), nil, 0o644); err != nil {
				return err
			}
		case <-tick.C:
			if c.node != nil && !c.node.running() {
				return fmt.Errorf("the node ended:\n%s", logTail(place, "node"))
			}
			if c.clients {
				if err := c.startClients(); err != nil {
					return err
				}
			}
		case asked := <-requests:
			if asked.line == "down" {
				c.end()
				asked.answer <- nil
				// The answer is on its way when the socket is closed by the listener's goroutine.
				time.Sleep(20 * time.Millisecond)
				return nil
			}
			asked.answer <- c.handle(asked.line)
		}
	}
}

// begin starts every program, and waits for none but the interface that the API server listens on.
func begin(place folder, wanted options) (*cluster, error) {
	kube, err := kubeBinary()
	if err != nil {
		return nil, err
	}
	sweepCgroups()
	n, err := newNetwork(wanted)
	if err != nil {
		return nil, err
	}
	c := &cluster{place: place, kube: kube, state: state{Options: wanted, Network: n, Supervisor: os.Getpid()}}
	c.exposed = map[uint64]net.Listener{}
	if err := os.MkdirAll(place.path("config"), 0o755); err != nil {
		return c, err
	}
	if err := os.WriteFile(place.path("config/audit.yaml"), []byte(auditPolicy), 0o644); err != nil {
		return c, err
	}
	if err := makePKI(place, n); err != nil {
		return c, fmt.Errorf("making the certificates: %w", err)
	}
	if !wanted.APIOnly {
		c.state.Cgroup = fmt.Sprintf("%s%d", cgroupPrefix, os.Getpid())
		if c.node, err = startNode(place, n, c.state.Cgroup); err != nil {
			return c, err
		}
		c.state.Node = c.node.command.Process.Pid
	}
	c.programs = controlPlane(place, n, wanted)
	for _, program := range c.programs {
		if program.wanted = true; program.client {
			continue
		}
		if err := program.start(kube, place); err != nil {
			return c, err
		}
	}
	return c, place.writeState(c.state)
}

// end stops everything and removes what only a running cluster needs.
func (c *cluster) end() {
	for _, listener := range c.exposed {
		_ = listener.Close()
	}
	if c.node != nil {
		c.node.kill()
		c.state.Network.leave()
		removeCgroups(c.state.Cgroup)
		c.node = nil
	}
	for _, program := range c.programs {
		program.kill()
	}
	if err := c.place.clear(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
	}
}

func (c *cluster) handle(line string) error {
	verb, name, _ := strings.Cut(line, " ")
	switch verb {
	case "ping":
		return nil
	case "expose":
		return c.expose(name)
	}
	for _, program := range c.programs {
		if program.name != name {
			continue
		}
		switch verb {
		case "stop":
			program.kill()
			return nil
		case "start":
			return program.start(c.kube, c.place)
		}
	}
	return fmt.Errorf("cannot %q here", line)
}

// startClients starts the programs that need the API server, those again that ended because there was
// none for a while.
func (c *cluster) startClients() error {
	c.clients = true
	for _, program := range c.programs {
		if program.client && program.wanted {
			if err := program.start(c.kube, c.place); err != nil {
				return err
			}
		}
	}
	return nil
}

// alive is an error when a program has ended without which there is nothing to wait for.
func (c *cluster) alive() error {
	for _, program := range c.programs {
		if !program.client && !program.running() {
			return fmt.Errorf("%s ended:\n%s", program.name, logTail(c.place, program.name))
		}
	}
	return nil
}

// getter asks the API server as an administrator.
func (c *cluster) getter() (func(path string) ([]byte, error), error) {
	client, err := adminClient(c.place)
	base := fmt.Sprintf("https://%s:%d", c.state.Network.API, c.state.Network.APIPort)
	return func(path string) ([]byte, error) {
		answer, err := client.Get(base + path)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", path, answer.Status)
		}
		return body, err
	}, err
}

// untilServed waits for the API server.
func (c *cluster) untilServed() error {
	get, err := c.getter()
	if err != nil {
		return err
	}
	return until(startLimit, c.alive, func() error { _, err := get("/readyz"); return err })
}

// untilReady waits for the controllers and, where there is one, for the node.
func (c *cluster) untilReady() error {
	get, err := c.getter()
	if err != nil {
		return err
	}
	// The first pod of a namespace needs this account; the controller manager makes it.
	account := "/api/v1/namespaces/default/serviceaccounts/default"
	if err := until(startLimit, c.alive, func() error { _, err := get(account); return err }); err != nil {
		return err
	}
	if c.state.Options.APIOnly {
		return nil
	}
	return until(startLimit, c.alive, func() error {
		body, err := get("/api/v1/nodes/" + nodeName)
		if err != nil {
			return err
		}
		var found struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := json.Unmarshal(body, &found); err != nil {
			return err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return nil
			}
		}
		return fmt.Errorf("the node is not ready: %+v", found.Status.Conditions)
	})
}

func adminClient(place folder) (*http.Client, error) {
	ca, err := os.ReadFile(place.path("pki/ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	own, err := tls.LoadX509KeyPair(place.path("pki/admin.crt"), place.path("pki/admin.key"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}}}
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}, nil
}

func listen(listener net.Listener, requests chan<- request) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			line, err := bufio.NewReader(connection).ReadString('\n')
			if err != nil {
				return
			}
			asked := request{strings.TrimSpace(line), make(chan error, 1)}
			requests <- asked
			if err := <-asked.answer; err != nil {
				fmt.Fprintf(connection, "error: %v\n", err)
				return
			}
			fmt.Fprintln(connection, "ok")
		}()
	}
}

// ask sends a line to the supervisor and waits for its answer.
func ask(place folder, line string) error {
	connection, err := net.Dial("unix", place.path("control"))
	if err != nil {
		return fmt.Errorf("no cluster runs in %s", place)
	}
	defer connection.Close()
	fmt.Fprintln(connection, line)
	answer, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(answer)); text != "ok" {
		return errors.New(strings.TrimPrefix(text, "error: "))
	}
	return nil
}

// down ends the cluster of the folder, whatever is left of it.
func down(place folder) error {
	before, stateErr := place.readState()
	err := ask(place, "down")
	lock, lockErr := place.lock()
	for deadline := time.Now().Add(20 * time.Second); lockErr != nil && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
		lock, lockErr = place.lock()
	}
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer lock.Close()
	// Nothing holds the folder any more, and with its supervisor everything else ended.
	if stateErr == nil && before.Cgroup != "" {
		before.Network.leave()
		removeCgroups(before.Cgroup)
	}
	return place.clear()
}

func status(place folder) error {
	found, err := place.readState()
	if err != nil {
		return err
	}
	if err := ask(place, "ping"); err != nil {
		return err
	}
	text, err := json.MarshalIndent(found, "", "  ")
	fmt.Println(string(text))
	return err
}
