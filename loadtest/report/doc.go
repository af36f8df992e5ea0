// Package report shows results of load tests to people: a line a second or a picture of the present while a run goes on ([Live]), its result as
// text ([Text]) and as one HTML file that needs nothing else ([HTML]), and several results beside each other ([Compare]).
//
// What it shows may come from anywhere: results are files, and errors quote what brokers say. So control characters never reach the terminal,
// and nothing in a page is markup but what is written here.
package report
