package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
)

// expose lets pods reach a server that listens on 127.0.0.1 only: its port is served on the address
// that this machine has for them, too.
func (c *cluster) expose(port string) error {
	if c.node == nil {
		return fmt.Errorf("there are no pods here")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no port", port)
	}
	if c.exposed[number] != nil {
		return nil
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", c.state.Network.API, number))
	if err != nil {
		return err
	}
	c.exposed[number] = listener
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(client, fmt.Sprintf("127.0.0.1:%d", number))
		}
	}()
	return nil
}

// pass copies both ways until both are done; an end of one way is passed on as such.
func pass(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			if half, ok := way[1].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}
