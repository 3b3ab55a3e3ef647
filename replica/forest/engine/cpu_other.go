//go:build !amd64 || purego

package engine

func detect() level { return levelGo }
