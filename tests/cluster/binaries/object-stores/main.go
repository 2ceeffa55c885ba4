// object-stores serves an empty bucket in memory, with the protocol of S3, for the tests.
//
// The XML API of Google Cloud Storage has the same requests, so it also serves gs:// without its credentials.
// It prints its address when it is ready.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bucket string) error {
	memory := s3mem.New()
	if err := memory.CreateBucket(bucket); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, gofakes3.New(memory).Server())
}
