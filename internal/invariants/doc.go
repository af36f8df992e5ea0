// Package invariants switches on checks that are too dear for production, with the build tag "invariants".
//
//	go test -tags invariants ./...
package invariants
