from align.worker.serving import main

main()
