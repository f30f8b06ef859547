package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// node is the first process of the namespaces that the node lives in, seen from outside.
type node struct {
	command *exec.Cmd
	ended   chan struct{}
}

// nodeConfig is what that process is told, as its one argument.
type nodeConfig struct {
	Dir     string  `json:"dir"`
	Network network `json:"network"`
	Cgroup  string  `json:"cgroup"`
}

const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// nodePossible says why there can be no full node here, if that is so.
func nodePossible() error {
	var missing []string
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it needs root", errNoNode)
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin"); err != nil {
		return err
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "nft", "mount", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	for _, plugin := range []string{"ptp", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(cniPlugins, plugin)); err != nil {
			missing = append(missing, filepath.Join(cniPlugins, plugin))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: there is no %s", errNoNode, strings.Join(missing, ", "))
	}
	if err := cgroupsUsable(); err != nil {
		return fmt.Errorf("%w: %w", errNoNode, err)
	}
	probe := exec.Command("true")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if err := probe.Run(); err != nil {
		return fmt.Errorf("%w: no namespaces can be made: %w", errNoNode, err)
	}
	return nil
}

// cgroupsUsable tries to make a control group, where a kubelet needs one.
func cgroupsUsable() error {
	wanted := []string{"memory", "cpu", "pids"}
	if unified() {
		controllers, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, controller := range wanted {
			if !strings.Contains(string(controllers), controller) {
				return fmt.Errorf("there is no control group for %s", controller)
			}
		}
	}
	for _, controller := range wanted {
		top := filepath.Join(cgroupRoot, controller)
		if unified() {
			top = cgroupRoot
		}
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err != nil {
			return fmt.Errorf("there is no control group for %s", controller)
		}
		path, err := os.MkdirTemp(top, "holdfast-probe-")
		if err != nil {
			return fmt.Errorf("no control group can be made: %w", err)
		}
		if err := syscall.Rmdir(path); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts the namespaces and joins their network to this one.
func startNode(place folder, n network, cgroup string) (*node, error) {
	if err := nodePossible(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(nodeConfig{string(place), n, cgroup})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	wait, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	defer release.Close()
	log, err := os.Create(place.path("log/node"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(self, "node-init", string(config))
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{wait}
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("making the node's namespaces: %w", err)
	}
	started := &node{command, make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(started.ended)
	}()
	return started, n.join(command.Process.Pid)
}

func (n *node) running() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends the first process of the namespaces; the kernel ends all others with it, and lets the
// wait return when the last of them is gone.
func (n *node) kill() {
	_ = n.command.Process.Kill()
	<-n.ended
}

// inside is a command that runs in the node's namespaces.
func inside(place folder, args []string) (*exec.Cmd, error) {
	if len(args) == 0 {
		return nil, errors.New("which command?")
	}
	found, err := place.readState()
	if err != nil {
		return nil, err
	}
	if found.Node == 0 {
		return nil, fmt.Errorf("the cluster in %s has no node", place)
	}
	enter := append([]string{"-t", fmt.Sprint(found.Node), "-m", "-p", "-n", "-i", "-u", "--"}, args...)
	return exec.Command("nsenter", enter...), nil
}

func enter(place folder, args []string) error {
	command, err := inside(place, args)
	if err != nil {
		return err
	}
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	return command.Run()
}

// load gives the node the images of an archive.
func load(place folder, archive string) error {
	path, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	command, err := inside(place, append(ctr, "images", "import", path))
	if err != nil {
		return err
	}
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("importing %s: %w\n%s", archive, err, text)
	}
	return nil
}
