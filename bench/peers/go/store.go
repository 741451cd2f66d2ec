package main

import (
	"database/sql"
	"net/url"

	_ "github.com/mattn/go-sqlite3" // a little faster here than modernc.org/sqlite
)

// connections is how many reads run at once; anything from 2 to 16 was within the noise on two cores.
const connections = 4

// store is one prepared statement on a few connections that stay open.
type store struct {
	find *sql.Stmt
}

func openStore(path string) (*store, error) {
	source := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=ro&_mutex=no"}
	database, err := sql.Open("sqlite3", source.String())
	if err != nil {
		return nil, err
	}
	database.SetMaxOpenConns(connections)
	database.SetMaxIdleConns(connections) // the default keeps two, and opens and closes all others for each call
	// As a blob: text would be made a Go string first, and that copied into bytes.
	find, err := database.Prepare("SELECT CAST(json_data AS BLOB) FROM task WHERE task_id = ?")
	if err != nil {
		return nil, err
	}
	return &store{find}, nil
}

// get returns the stored document; sql.ErrNoRows if there is none. A read is too short to be worth cancelling: a
// context that can be cancelled would cost a goroutine each.
func (s *store) get(taskID string) ([]byte, error) {
	var document []byte
	err := s.find.QueryRow(taskID).Scan(&document)
	return document, err
}
